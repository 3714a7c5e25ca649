//! The stores, tested: a test is worth what it stands on.

mod azurite;
mod contract;
mod google;
mod hostile;
mod s3s_fs;
mod seaweedfs;
