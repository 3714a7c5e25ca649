//! Crashes, races and long runs: what was acknowledged holds, whatever breaks when.

mod behind;
mod crash;
mod database;
mod disk;
mod races;
mod soak;
mod wire;
