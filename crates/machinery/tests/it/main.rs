//! Tests of the machinery as its users see it.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "tests")]

mod framing;
mod hostile;
mod roundtrip;
mod rules;
mod smoke;
mod structural;
mod upstream_cases;
