// The gateway's services, and what to call: shared by the examples.

import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { credentials, loadPackageDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

const address = process.argv[2] || process.env.YETA_GATEWAY || 'localhost:50051';
const definition = loadSync(
  ['yeta/v1/call.proto', 'yeta/v1/config.proto', 'yeta/v1/outbound.proto', 'yeta/v1/push.proto'],
  {
    includeDirs: [fileURLToPath(new URL('../../../proto', import.meta.url))],
    keepCase: true, // the platform's own names
    longs: Number, // times in milliseconds fit
    enums: String,
    oneofs: true,
    defaults: true,
  },
);
const services = loadPackageDefinition(definition).yeta.v1;

const rows = [{ values: ['13000000001', '张先生'] }, { values: ['13000000002', '王女士'] }];

/** A client of one of the services, whose unary methods give promises. */
export function connect(service) {
  const client = new services[service](address, credentials.createInsecure(), {
    'grpc.max_receive_message_length': 32 << 20, // a long dialog may take more than 4 MiB
  });
  for (const [name, { responseStream }] of Object.entries(services[service].service)) {
    if (!responseStream) client[name] = promisify(client[name]).bind(client);
  }
  return client;
}

/** Two rows, to be called by a robot of the account on a line that is free. */
export async function callOutRequest() {
  const client = connect('ConfigService');
  const config = await client.QueryConfig({});
  client.close();
  return {
    robot_id: config.robots.find(({ robot_id }) => robot_id === '719').robot_id,
    line_num: config.lines.find(({ status }) => status === 'LINE_STATUS_IDLE').line_num,
    call_column: ['客户手机号码', '姓名'],
    call_list: rows,
  };
}
