//! Black-box tests: the real binary, the real clients, the real databases.

mod architecture;
mod behind;
mod clients;
mod conformance;
mod crash;
mod database;
mod harness;
mod races;
mod soak;
mod wire;
