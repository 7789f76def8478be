//! Rows that were accepted and of which no call record came.

mod clock;
mod gateway;
mod world;
