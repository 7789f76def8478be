// Submits the rows of a CSV file, to be called at once, and tells what became of each.
//
//   npm ci && node upload.js [ADDRESS [ROWS.csv]]
//
// The first column is the row's own id, the second its phone number. Run it again with the same
// file, also after it broke off: what was submitted before is not submitted again.

import { readFile } from 'node:fs/promises';
import { parse } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { status } from '@grpc/grpc-js';
import { connect } from './calls.js';

// Part of what an upload is: the same whenever it is taken up again.
const direct = { robot_id: '719', line_num: '055169101408' };

const file = process.argv[3] || fileURLToPath(new URL('../rows.csv', import.meta.url));
const [[, ...columns], ...rows] = await table(file);
const outbound = connect('OutboundService');

const results = [...(await upload()).values()];
const errors = results.filter(({ outcome }) => outcome === 'error');
for (const { row_key, error } of errors) {
  console.log(`row ${row_key}: ${error.reason} ${error.message}`);
}
const unknown = errors.filter(({ error }) => error.reason === 'OUTCOME_UNKNOWN').length;
const before = results.filter(({ known_before }) => known_before).length;
console.log(
  `done: ${results.length - errors.length} accepted, ${errors.length - unknown} refused,`,
  `${unknown} unknown; ${before} known before`,
);
outbound.close();

/** The file's lines of values. Where values hold commas or quotes, take a CSV library. */
async function table(file) {
  const text = (await readFile(file, 'utf8')).replace(/^\uFEFF/, '');
  const lines = text.split(/\r?\n/).filter(Boolean);
  return lines.map((line) => line.split(','));
}

// README:begin
/** The header, then the rows. */
function* messages() {
  const upload_id = parse(file).name; // the same for the same list, so that it can be sent again
  yield { header: { upload_id, direct, call_column: columns } }; // or task_id instead of direct
  for (let at = 0; at < rows.length; at += 500) {
    const some = rows.slice(at, at + 500);
    yield { rows: { rows: some.map(([row_key, ...values]) => ({ row_key, values })) } };
  }
}

async function upload() {
  const results = new Map();
  while (true) {
    const stream = outbound.SubmitRows();
    Readable.from(messages()).pipe(stream); // as fast as the gateway takes them
    try {
      for await (const { row } of stream) {
        if (row) results.set(row.row_key, row);
      }
      return results;
    } catch (error) {
      if (error.code !== status.UNAVAILABLE) throw error;
      await setTimeout(1000); // the gateway restarts; sent again, only the rest goes out
    }
  }
}
// README:end
