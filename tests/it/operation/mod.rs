//! Berth as whoever runs it meets it: the command line, its limits, its jobs.

mod config;
mod fsck;
mod gc;
mod limits;
mod scenes;
mod serve;
