//! What `/version` says.

/// Upstream's release that this one behaves as.
pub const KUBERNETES_VERSION: &str = "v1.36.2";
/// Major version.
pub const MAJOR: &str = "1";
/// Minor version.
pub const MINOR: &str = "36";

/// `gitVersion`: upstream's release with ours as build metadata, which semantic versions ignore when they compare.
pub fn git_version() -> String {
    format!("{KUBERNETES_VERSION}+skiff-{}", env!("CARGO_PKG_VERSION"))
}

/// The body of `/version` (`version.Info`), indented as upstream indents it.
pub fn json() -> String {
    let fields = [
        ("major", MAJOR),
        ("minor", MINOR),
        ("emulationMajor", MAJOR),
        ("emulationMinor", MINOR),
        ("minCompatibilityMajor", MAJOR),
        ("minCompatibilityMinor", "35"),
        ("gitVersion", &git_version()),
        ("gitCommit", option_env!("SKIFF_GIT_COMMIT").unwrap_or("")),
        ("gitTreeState", option_env!("SKIFF_GIT_TREE_STATE").unwrap_or("archive")),
        ("buildDate", option_env!("SKIFF_BUILD_DATE").unwrap_or("1970-01-01T00:00:00Z")),
        ("goVersion", ""),
        ("compiler", "rustc"),
        ("platform", "linux/amd64"),
    ];
    let lines: Vec<String> = fields.iter().map(|(key, value)| format!("  \"{key}\": \"{value}\"")).collect();
    format!("{{\n{}\n}}", lines.join(",\n"))
}
