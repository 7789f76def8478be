// Calls two numbers through yeta-gateway and prints what comes back of the calls.
//
//   npm ci && node main.js [ADDRESS]

import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { credentials, loadPackageDefinition, status } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

const address = process.argv[2] || process.env.YETA_GATEWAY || 'localhost:50051';
const definition = loadSync(
  ['yeta/v1/config.proto', 'yeta/v1/outbound.proto', 'yeta/v1/push.proto'],
  {
    includeDirs: [fileURLToPath(new URL('../../../proto', import.meta.url))],
    keepCase: true, // the platform's own names
    longs: Number, // times in milliseconds fit
    enums: String,
    oneofs: true,
    defaults: true,
  },
);
const { ConfigService, OutboundService, PushService } = loadPackageDefinition(definition).yeta.v1;

const rows = [{ values: ['13000000001', '张先生'] }, { values: ['13000000002', '王女士'] }];

/** A client whose unary methods, `name` among them, give promises. */
function unary(Service, name) {
  const client = new Service(address, credentials.createInsecure());
  return promisify(client[name]).bind(client);
}

const config = await unary(ConfigService, 'QueryConfig')({});
const robot = config.robots.find(({ robot_id }) => robot_id === '719');
const line = config.lines.find(({ status }) => status === 'LINE_STATUS_IDLE');

// README:begin
const called = await unary(OutboundService, 'CallOut')({
  robot_id: robot.robot_id,
  line_num: line.line_num,
  call_column: robot.call_column, // such as 客户手机号码, 姓名
  call_list: rows,
});
const pushes = new PushService(address, credentials.createInsecure());
const filter = { task_data_ids: called.task_data_ids };
let cursor = called.push_cursor; // a stream from here misses nothing of these calls
const calls = newCalls(called.task_data_ids);
while (!calls.complete()) {
  const stream = pushes.SubscribePushes({ cursor, filter });
  try {
    for await (const response of stream) {
      cursor = calls.take(response); // of the event or the progress: keep it
      if (calls.complete()) stream.cancel();
    }
  } catch (error) {
    if (error.code === status.CANCELLED) break;
    if (error.code !== status.UNAVAILABLE) throw error;
    await setTimeout(1000); // the gateway restarts; then we go on from the cursor
  }
}
// README:end
pushes.close();

/**
 * What is still to come of each call: two records, and if it was answered a recording and a
 * dialog. They come in any order.
 */
function newCalls(taskDataIds) {
  const seen = new Map(taskDataIds.map((id) => [id, { pushes: 0, answered: false }]));
  console.log('called:', ...taskDataIds);
  return {
    complete: () => [...seen.values()].every((call) => call.pushes === (call.answered ? 4 : 2)),

    /** Prints an event, and gives the cursor to go on from. */
    take({ event, progress }) {
      if (!event) return progress.cursor;
      const push = event[event.payload];
      const call = seen.get(push.task_data_id);
      call.pushes += 1;
      call.answered ||= event.payload !== 'call_record' || push.time_answer > 0;
      print(event.payload, push);
      return event.cursor;
    },
  };
}

function print(kind, push) {
  switch (kind) {
    case 'call_record': {
      const variant = push.variant.replace('CALL_RECORD_VARIANT_', '');
      console.log('call record', variant, push.task_result_desc, push.duration_call, 's');
      break;
    }
    case 'voice':
      console.log('recording  ', push.absolute_url, push.duration, 's');
      break;
    case 'dialog':
      for (const turn of push.dialog) {
        console.log(`dialog      ${turn.role_code}: ${turn.text_man || turn.text_robot}`);
      }
      break;
  }
}
