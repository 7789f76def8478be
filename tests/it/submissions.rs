//! Submissions that never dial twice, and bulk that never fails whole: the gateway as a process of
//! its own between the sandbox and its clients.

mod bulk;
mod dial_once;
mod evidence;
mod ids;
mod pressure;
pub mod requests;
mod resume;
mod row_checks;
mod row_keys;
pub mod stage;
pub mod upload;
