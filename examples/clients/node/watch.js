// Calls two numbers through yeta-gateway and waits for what becomes of each call.
//
//   npm ci && node watch.js [ADDRESS]

import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { status } from '@grpc/grpc-js';
import { callOutRequest, connect } from './calls.js';

const request = await callOutRequest();
const outbound = connect('OutboundService');
const calls = connect('CallService');

// README:begin
const { task_data_ids, push_cursor } = await callOut(request);
console.log('called:', ...task_data_ids);
const results = new Map();
while (results.size < task_data_ids.length) {
  try {
    // From the cursor on, nothing of these calls is missed.
    for await (const { call } of calls.WatchCalls({ task_data_ids, push_cursor })) {
      results.set(call.task_data_id, call);
    }
  } catch (error) {
    if (error.code !== status.UNAVAILABLE) throw error;
    await setTimeout(1000); // the gateway restarts; then we ask again
  }
}
// README:end

for (const [row, { state, outcome, dialog, voice }] of results) {
  const words = [state.replace('CALL_STATE_', ''), outcome.replace('CALL_OUTCOME_', '')];
  const turns = dialog ? dialog.dialog.length : 0;
  console.log('done:', row, ...words, turns, 'turns', voice ? voice.absolute_url : '');
}
outbound.close();
calls.close();

// README:begin call_out
async function callOut(request) {
  request.request_id = randomUUID(); // keep it: under it, nobody is called twice
  for (let tries = 1; ; tries++) {
    try {
      return await outbound.CallOut(request);
    } catch (error) {
      if (error.code !== status.UNAVAILABLE || tries === 30) throw error;
      await setTimeout(1000); // the gateway restarts, or the platform is away; then we ask again
    }
  }
}
// README:end call_out
