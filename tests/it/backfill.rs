//! Pushes that the platform could not deliver: fetched, read, and added once.

mod coverage;
mod files;
mod gateways;
mod kill;
mod platform;
pub mod world;
