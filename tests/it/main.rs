//! Black-box tests: the real binary, the real clients, the real databases.

mod architecture;
mod clients;
mod config;
mod conformance;
mod fsck;
mod gc;
mod harness;
mod limits;
mod scenes;
mod serve;
