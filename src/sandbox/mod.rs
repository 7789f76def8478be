//! A simulator of the yeta platform, to develop and test against: the real one
//! has no test system, and every try there calls somebody's phone.
//!
//! It is written from the vendor's two documents and from what has been seen of
//! the live platform, with its own reading of both: it shares no parsing code
//! with the rest of this crate, so that a misreading on either side shows.
//!
//! # The open API
//!
//! `POST` with `Content-Type: application/json;charset=UTF-8`, the token in the
//! query, answers `{code, message, result}` with HTTP status 200 whatever the
//! code:
//!
//! - `/openapi/oauth/v1/token`
//! - `/openapi/config/v1/query`
//! - `/openapi/outbound/v1/task/` `callout`, `create`, `insert`, `start`,
//!   `pause`, `delete`, `query`
//! - `/openapi/download/v1/push/failed`
//!
//! Lines, robots and voices are those of the documents' examples, which work as
//! they are printed: the first created task is 129, a `time_end` already past
//! at creation is ignored, and `task_data_ids` begin at 346252615123869699,
//! beyond what a double can hold. Parameters are read strictly. Why something
//! was refused stands in the header `x-sandbox-reason` and in
//! `GET /sandbox/requests`.
//!
//! | refused | code |
//! |---|---|
//! | wrong `app_key` or `app_secret`, if the sandbox was given any | 200101 |
//! | token missing, unknown, expired, or killed by a newer one | 10001 |
//! | no JSON, a parameter missing or of another type or out of range; a row with a control character in a value (the sandbox's own rule) | 10005 |
//! | a line that is not the account's; inserting after the start; pausing a task never started; starting, pausing, deleting or inserting into the long-lived task of direct callouts | 200200 |
//! | unknown task | 200202 |
//! | a number that is no mobile number, or ends in 9999 (sensitive); fails the batch, unless `insert_keeps_good_rows` is set | 200203 |
//! | unknown robot, unknown voice, `robot_speed` beyond ±500 | 200204, 200205, 200206 |
//! | more rows than the balance pays for | 200209 |
//! | columns that are not the robot's, rows longer or shorter than the columns | 200212 |
//! | more than 50 rows | 200213 |
//! | outside the line's hours, with `enforce_hours` alone | 200222 |
//! | starting a task, or calling out, on a line that serves another task | 3030002 |
//! | a task that has ended, a task that is deleted | 3010101, 3010102 |
//!
//! The documents name no code for a wrong line or for rows that come too late;
//! 200200 (wrong data relation) is the sandbox's choice. A line stays with its
//! task until that ends or is deleted, paused or not.
//!
//! # Calls and pushes
//!
//! A call rings and lasts as the seed has it, or as its number ends:
//!
//! | number ends in | what happens |
//! |---|---|
//! | `0001` | answered, 成功 |
//! | `00NN`, `NN` a documented `task_result` (`0002` 正在通话中, `0006` 空号, `0015` 客户接听后并主动挂机 …) | that result |
//! | `0099` | -1 超时 |
//! | `0101` | 用户未接 at the first call, answered at the first redial |
//! | anything else | answered in seven calls of ten |
//!
//! After it come the basic and the outbound call record and, when somebody
//! answered, recording and dialog, in any order. `time_answer` of an unanswered
//! call is 0, null, "" or absent. Half of all `call_uuid`s have no dashes. A
//! recording's `url` is relative to `/voice/`, where it can be fetched, whole or
//! in ranges; longer calls' recordings end after 15 seconds. Times are
//! real ones at any `speed`: a call begins when it is dialled, and has ended
//! before its pushes. Durations are those of the call as it would be lived.
//!
//! A push without `success` in its answer within 3 s is sent again, byte by
//! byte, up to 3 times, and then given up (`GET /sandbox/pushes/failed`).
//!
//! What was given up on one day, by Beijing's calendar, is listed by
//! `/openapi/download/v1/push/failed` (body `{"date":"yyyy-MM-dd"}`) from the
//! next day on and for seven days, as paths of zips below `/push_download/`,
//! where they can be fetched without a token, whole or in ranges: in each,
//! nested folders with several files, whose lines are
//! `{"data":…,"module":…,"retryTimes":4,"timestamp":…}`. A day outside of the
//! seven is refused with 10005, and no date means yesterday: both are the
//! sandbox's choice. `POST /sandbox/calendar` with `{"days": 1}` moves what was
//! given up so far into yesterday.
//!
//! # Inbound calls
//!
//! Nobody can ring the sandbox, so inbound calls are played on demand: `POST
//! /sandbox/inbound` with `{"call_relation_id": "1111"}`, and optionally
//! `robot_id`, `caller` and `semantics`. As documented, the push address is
//! asked `getDialogContext` at the beginning, by the URL of the pushes with
//! that module's name in its place; the caller is held up for 500 ms at most,
//! whatever the `speed`. With `"semantics": true`, `analyzeSemantics` is asked
//! in the middle of the call. After it come one call record, a recording and a
//! dialog that carry the `call_relation_id`.
//!
//! The request is answered when the robot knows what it should; `GET
//! /sandbox/inbound` tells of every call what was answered (`answer`), how long
//! that took (`took_ms`), or what was wrong with it (`error`): late, no map of
//! strings, no array of typed values.
//!
//! # Faults and counts
//!
//! `GET /sandbox` lists the sandbox's own endpoints, all JSON.
//!
//! | endpoint | |
//! |---|---|
//! | `GET`, `POST`, `DELETE /sandbox/faults` | the queue of faults |
//! | `GET /sandbox/requests` | per operation: received, applied, refused, cut; rows as under `/sandbox/rows`, accepted ones by number and by content (with their ids) and received ones by content, for the first 200,000 different ones; the last 200 requests |
//! | `GET /sandbox/rows` | how many rows were received, whatever became of them, how many accepted, and how many of these had been accepted before |
//! | `GET /sandbox/tokens`, `POST /sandbox/tokens/expire` | tokens issued, live, refusals; refuses the present ones from now on |
//! | `GET /sandbox/pushes`, `GET /sandbox/pushes/failed` | per receiver: sent, posts, acknowledged, retried, failed, lost, in flight; those given up |
//! | `POST /sandbox/push?module=M` | sends the body's bytes with the request's Content-Type to a module, once, and answers `{status, body, acknowledged}` |
//! | `GET`, `POST /sandbox/quirks` (`?name=N`) | lists or sends [`quirks`] |
//! | `GET`, `POST /sandbox/inbound` | the inbound calls played so far; plays one, see below |
//! | `POST /sandbox/calendar` | `{"days": N}`: the pushes given up so far become N days older |
//! | `GET`, `POST /sandbox/recordings` | how often recordings were asked for; `{"path": P, "bytes": N}` serves one of any size under `/voice/P` |
//! | `POST /sandbox/balance` | `{"calls": N}`, or null for no bound |
//! | `POST /sandbox/reset` | forgets tasks, faults and counts; tokens live on, ids go on |
//!
//! A fault is `{"operation": …, "fault": …, "times": 1, "millis": 0}`. Each
//! request takes the oldest fault that fits its operation (`token`, `config`,
//! `callout`, `create`, `insert`, `start`, `pause`, `delete`, `query`, `failed`,
//! the file `download`, or `any`); each push likewise (a module, or `push` for
//! all); and each request for a recording (`voice`).
//!
//! | fault | what happens |
//! |---|---|
//! | `latency` | the operation is applied at once, the answer comes after `millis`; `millis` goes with any other fault, too |
//! | `refuse_token` | 10001; with `"kill": true` the present tokens end |
//! | `code` | `code` and `message` as given, with the HTTP status `status` (200 by default); nothing applied |
//! | `busy` | 10004, with `status`; nothing applied |
//! | `http_500` | status 500 with a JSON body (`code`, `message`; 10004 by default), or plain text with `"text": true`; nothing applied |
//! | `html` | a page, with `status`; nothing applied |
//! | `wrong_content_type` | the true answer as `text/html` |
//! | `numbers_as_strings`, `strings_as_numbers`, `null_fields`, `unknown_fields` | the true answer so bent |
//! | `invalid_json_strings` | a task query's lists as the document prints them, which is no JSON |
//! | `no_ids` | applied, and answered with code 0, but without `task_id`, and with only the first `ids` (0 by default) of the `task_data_ids` |
//! | `hold` | applied at once; the answer comes when the faults are dropped (`DELETE /sandbox/faults`, or a reset) |
//! | `cut_before_reading` | connection reset before the body is read; nothing applied |
//! | `cut_after_reading` | applied, then reset without an answer |
//! | `cut_mid_answer` | applied, then closed after half of the answer's body |
//! | `close_after_answer` | applied and answered, then closed without notice |
//! | `duplicate`, `reorder`, `delay`, `lose` (pushes) | sent twice; held until another push has passed; held for `millis`; never sent |
//! | `not_found`, `http_500`, `cut_before_reading`, `latency` (recordings) | 404; 500; reset without an answer; an answer after `millis` |
//! | `redirect` (recordings) | 302 to `location` |
//! | `ignore_range` (recordings) | 200 with the whole, whatever range was asked for |
//! | `wrong_size` (recordings) | half of the recording, as if it were the whole |
//! | `slow`, `cut_mid_answer` (recordings) | `millis` before each 64 KiB; reset after half of what was asked for |
//!
//! `"applied": true` lets the operation be carried out behind any answer that
//! hides it. A fault that is to last until it is dropped has large `times`.

mod admin;
mod answer;
mod bend;
mod bodies;
mod catalog;
mod clock;
mod code;
mod config;
mod delivery;
mod dialer;
mod failed;
mod faults;
mod inbound;
mod operation;
mod outbound;
mod outcome;
mod params;
mod quirk;
mod received;
mod router;
mod row_counts;
mod rows;
mod script;
mod server;
mod task;
mod task_query;
mod tasks;
mod tokens;
mod voice;
mod world;

use std::io;
use std::sync::Arc;

use tokio::net::TcpListener;

pub use config::SandboxConfig;
pub use quirk::{Quirk, quirks};

/// Serves the sandbox on the listener until `shutdown` is done, and ends its
/// calls and pushes then. Fails only if the configuration makes no sense.
pub async fn serve(
    config: SandboxConfig,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    config.check()?;
    let world = Arc::new(world::World::new(config)?);
    let router = router::router(Arc::clone(&world));
    server::run(world, router, listener, shutdown).await;
    Ok(())
}
