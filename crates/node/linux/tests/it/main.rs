//! Real-kernel tests, as root, each in network namespaces of its own that die with the test.
#![expect(clippy::unwrap_used, reason = "tests")]

mod network;
