//! Berth as whoever runs it meets it: the command line, its limits, its jobs.

mod config;
mod fsck;
mod gc;
mod http2;
mod limits;
mod policy;
pub mod scenes;
mod scrub;
mod serve;
mod tls;
