//! Black-box tests: the real binary, the real clients, the real databases.

mod architecture;
mod behind;
mod clients;
mod config;
mod conformance;
mod crash;
mod database;
mod fsck;
mod gc;
mod harness;
mod limits;
mod races;
mod scenes;
mod serve;
mod soak;
mod wire;
