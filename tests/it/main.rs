//! Black-box tests of the workspace and the executable.

mod edges;
