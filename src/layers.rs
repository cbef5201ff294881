//! Imports point down only: what `lib.rs` draws, held true.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Rooms and the floor they are on. A file belongs to the longest path that it
/// begins with, and may name only rooms on lower floors, and its own.
const ROOMS: [(&str, u8); 21] = [
    ("lease", 0),
    ("netlink", 0),
    ("cni", 1),
    ("nat/condition", 1),
    ("nat/element", 1),
    ("nat/json", 1),
    ("nat/rule", 1),
    ("nat/ruleset", 1),
    ("nat/transaction", 1),
    ("nat/wire", 1),
    ("module", 2),
    ("request", 2),
    ("allocator", 3),
    ("host", 5),
    ("logger", 5),
    ("nat", 5),
    ("publish", 5),
    ("store", 5),
    ("tally", 5),
    ("command", 6),
    ("layers", 7),
];

fn room(path: &str) -> (&'static str, u8) {
    let found = ROOMS.into_iter().filter(|(room, _)| path.starts_with(room));
    found.max_by_key(|(room, _)| room.len()).unwrap_or_else(|| panic!("{path} is in no room"))
}

/// The top-level modules that a file names behind `crate::`, alone or in braces.
fn imports(text: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    for (at, path) in text.match_indices("crate::") {
        if text[..at].ends_with(is_name) {
            continue;
        }
        let rest = &text[at + path.len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push(rest.chars().take_while(|c| is_name(*c)).collect());
            continue;
        };
        let (mut depth, mut name) = (0, String::new());
        for c in group.chars() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => found.push(std::mem::take(&mut name)),
                _ if depth == 0 => name.push(c),
                _ => {}
            }
        }
        found.push(name);
    }
    let first = |name: String| name.trim().chars().take_while(|c| is_name(*c)).collect::<String>();
    found.into_iter().map(first).filter(|name| !name.is_empty()).collect()
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let nested = folders.iter().flat_map(|folder| sources(folder));
    let is_rust = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    nested.chain(files.into_iter().filter(is_rust)).collect()
}

#[test]
fn imports_are_found_however_they_are_written() {
    let text = "use crate::{\n    cni::{Config, config::Settings},\n    lease::Port,\n    nat::{self, Nat},\n};
        use crate::store::Store; fn f() -> crate::host::HostError {} macro_crate::no();";
    assert_eq!(imports(text), ["cni", "lease", "nat", "store", "host"]);
}

#[test]
fn imports_point_down_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut seen = 0;
    for file in sources(&root) {
        let path = file.strip_prefix(&root).unwrap().to_str().unwrap();
        // Binaries are crates of their own, on top of all this.
        if path == "lib.rs" || path.starts_with("bin/") {
            continue;
        }
        // What tests use beside the code says nothing of the code.
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let (room_of_file, floor) = room(path);
        for import in imports(code) {
            let (room_of_import, floor_of_import) = room(&import);
            let is_own = room_of_file.split('/').next() == room_of_import.split('/').next();
            assert!(
                is_own || floor_of_import < floor,
                "src/{path} is on floor {floor} and imports {import}, which is on {floor_of_import}"
            );
            seen += 1;
        }
        let is_pure_nat = floor == 1 && path.starts_with("nat/");
        for effect in ["super::apply", "super::kernel", "super::program", "Socket"] {
            assert!(!is_pure_nat || !code.contains(effect), "src/{path} imports {effect}");
        }
    }
    assert!(seen > 50, "only {seen} imports were found");
}
