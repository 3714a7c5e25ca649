//! The stores, tested: a test is worth what it stands on.

mod azurite;
mod contract;
mod seaweedfs;
