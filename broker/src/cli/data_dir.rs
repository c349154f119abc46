//! Where a node keeps its data when nobody says so.

use std::ffi::OsString;
use std::path::PathBuf;

/// `ottla` in the user's data directory: `$XDG_DATA_HOME`, else `~/.local/share` (on macOS `~/Library/Application Support`). `None`
/// where there is no user's directory.
pub(super) fn of_user() -> Option<PathBuf> {
    choose(cfg!(target_os = "macos"), |name| std::env::var_os(name))
}

fn choose(macos: bool, env: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_DATA_HOME").or_else(|| {
        let home = absolute("HOME")?;
        Some(home.join(if macos { "Library/Application Support" } else { ".local/share" }))
    })?;
    Some(base.join("ottla"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_data_directory_is_found_as_the_platform_says() {
        type Variables = &'static [(&'static str, &'static str)];
        let cases: [(bool, Variables, Option<&str>); 5] = [
            (false, &[("HOME", "/home/u")], Some("/home/u/.local/share/ottla")),
            (false, &[("HOME", "/home/u"), ("XDG_DATA_HOME", "/data")], Some("/data/ottla")),
            (
                false,
                &[("HOME", "/home/u"), ("XDG_DATA_HOME", "relative")],
                Some("/home/u/.local/share/ottla"),
            ),
            (true, &[("HOME", "/Users/u")], Some("/Users/u/Library/Application Support/ottla")),
            (false, &[("HOME", "")], None),
        ];
        for (macos, set, expected) in cases {
            let env = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            assert_eq!(choose(macos, env), expected.map(PathBuf::from), "{set:?}");
        }
    }
}
