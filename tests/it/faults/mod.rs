//! Crashes, races and long runs: what was acknowledged holds, whatever breaks when.

pub mod behind;
mod crash;
mod database;
mod disk;
mod races;
mod soak;
pub mod wire;
