// Prints every push that a gateway holds, and then what comes: a reader that keeps its own place.
//
//   npm ci && node reader.js [ADDRESS]

import { setTimeout } from 'node:timers/promises';
import { status } from '@grpc/grpc-js';
import { connect } from './calls.js';

const pushes = connect('PushService');

// README:begin
let start = { position: 'POSITION_EARLIEST' };
while (true) {
  try {
    for await (const { event, progress } of pushes.SubscribePushes(start)) {
      if (event) show(event);
      // The place to go on from, after a restart too: keep it with what was stored.
      start = { cursor: (event ?? progress).cursor };
    }
  } catch (error) {
    if (error.code !== status.UNAVAILABLE) throw error;
    await setTimeout(1000); // the gateway restarts; then we go on from the cursor
  }
}
// README:end

function show(event) {
  const push = event[event.payload];
  switch (event.payload) {
    case 'call_record':
      console.log('call record', push.call_uuid, push.task_result_desc, push.duration_call, 's');
      break;
    case 'voice':
      console.log('recording  ', push.call_uuid, push.absolute_url);
      break;
    case 'dialog':
      console.log('dialog     ', push.call_uuid, push.dialog.length, 'turns');
      break;
    case 'call':
      console.log('call       ', push.call_uuid, 'revision', push.revision);
      break;
    default:
      console.log('other push ', push.module, push.reason);
  }
}
