//! Real-kernel tests, as root, each in network namespaces of its own that die with the test.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests, and those that are skipped say why")]

mod network;
