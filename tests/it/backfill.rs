//! Pushes that the platform could not deliver: fetched, read, and added once.

mod coverage;
mod files;
mod gateways;
mod kill;
pub mod platform;
pub mod world;
