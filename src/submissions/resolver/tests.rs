//! The resolver over a real log and a platform on a real socket; the ledger alone is a stub.

mod records;
mod tasks;
mod world;
