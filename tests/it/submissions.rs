//! Submissions that never dial twice, and bulk that never fails whole: the gateway as a process of
//! its own between the sandbox and its clients.

mod bulk;
mod certain_evidence;
mod clients;
mod dial_once;
mod evidence;
mod full_disk;
mod ids;
mod no_log;
mod numbers;
mod others_calls;
mod pressure;
mod proof;
mod records;
pub mod requests;
mod resume;
mod row_checks;
mod row_keys;
mod same_row;
mod settle;
pub mod stage;
mod streams;
mod trouble;
pub mod upload;
