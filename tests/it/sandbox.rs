//! The sandbox over its sockets: what it refuses, how tasks and calls go, how
//! pushes are delivered, and every fault.

mod answers;
mod calls;
mod failed;
mod faults;
pub mod harness;
mod operations;
