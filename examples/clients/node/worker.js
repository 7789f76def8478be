// Processes the results of calls, sharing them with every other worker on the same subscription.
//
//   npm ci && node worker.js [ADDRESS]
//
// On SIGTERM or Ctrl-C it finishes the call at hand, acknowledges it, and ends.

import { setTimeout } from 'node:timers/promises';
import { status } from '@grpc/grpc-js';
import { connect } from './calls.js';

const subscription = 'call-results';
const pushes = connect('PushService');

let stream;
let atHand;
let isStopping = false;
const handled = []; // ack ids
let sending;

process.once('SIGTERM', stop);
process.once('SIGINT', stop);
await work();
pushes.close();
console.log('stopped');

/**
 * What the service is there for. A call may come again: after a crash, or with more known of it
 * and a higher revision. Store it by its call_uuid, and let the highest revision win.
 */
async function handle(call) {
  if (!call.call_record) throw new Error('the call has no record');
  const words = [call.state.replace('CALL_STATE_', ''), call.outcome.replace('CALL_OUTCOME_', '')];
  console.log('handled:', call.task_data_id, ...words);
}

// README:begin
async function work() {
  while (!isStopping) {
    stream = pushes.SubscribePushes({
      subscription, // the same in all replicas of the service: they share it
      position: 'POSITION_EARLIEST', // where it begins when it is new
      filter: { kinds: ['PUSH_KIND_CALL'] }, // one event for each call
      max_in_flight: 64, // what is handled well within the ack deadline, 30 s
    });
    try {
      for await (const { event } of stream) {
        if (event && !isStopping) await (atHand = take(event));
      }
    } catch (error) {
      if (error.code === status.UNAVAILABLE) {
        await setTimeout(1000); // the gateway restarts; what is not acknowledged comes again
      } else if (!isStopping) {
        throw error;
      }
    }
  }
}

async function take({ call, ack_id }) {
  try {
    await handle(call);
  } catch (error) { // comes again; after ten attempts it is set aside
    const refused = { subscription, ack_ids: [ack_id], reason: error.message };
    await pushes.NackPushes({ ...refused, delay: { seconds: 1 } });
    return;
  }
  acknowledge(ack_id);
}
// README:end

async function stop() {
  isStopping = true;
  await atHand?.catch(() => {}); // its failure is the loop's to tell
  await sending;
  stream?.cancel();
}

/** Acknowledges in batches: in one request whatever was handled during the one before. */
function acknowledge(ackId) {
  handled.push(ackId);
  sending ??= send();
}

async function send() {
  while (handled.length > 0) {
    const ack_ids = handled.splice(0);
    try {
      await pushes.AckPushes({ subscription, ack_ids });
    } catch (error) {
      console.error(ack_ids.length, 'calls not acknowledged, they come again:', error.message);
    }
  }
  sending = undefined;
}
