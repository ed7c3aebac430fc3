//! `skiff bench` as people run it, with the smallest load: every row of an API server is measured, and nothing stays.

use std::process::Command;

#[test]
fn measures_and_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let rows = "readyz,service-account,create-configmap,create-pod,get-pod,patch-pod,list-pages,watch,scheduling";
    let output = Command::new(env!("CARGO_BIN_EXE_skiff"))
        .args(["bench", "--json", "--requests", "40", "--watchers", "10", "--nodes", "20", "--pods", "100"])
        .args(["--rows", rows, "--data-dir"])
        .arg(directory.path())
        .output()
        .expect("skiff runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let measured: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let measured = measured.as_array().expect("a list");
    assert_eq!(measured.len(), rows.split(',').count());
    for row in measured {
        let figures = row["figures"].as_object().unwrap_or_else(|| panic!("measured: {row}"));
        assert!(figures.values().all(|figure| figure.as_f64().is_some_and(|value| value >= 0.0)), "{row}");
        assert!(row["met"].is_boolean(), "{row}");
    }
    let left: Vec<_> = std::fs::read_dir(directory.path()).expect("the directory").collect();
    assert!(left.is_empty(), "{left:?}");
}
