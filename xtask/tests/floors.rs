//! The house's rules that a compiler does not know: which crate may use which, where
//! unsafe code is, what files are called. Breaches are listed with file and line.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// ARCHITECTURE.md, "Floors": a crate may use those of lower floors only, so neither its
/// neighbours nor what stands on it.
const FLOORS: &[(u8, &str)] = &[
    (5, "postroj"),
    (4, "harness"),
    (3, "plan"),
    (3, "bakery"),
    (3, "engine"),
    (3, "net"),
    (2, "distro"),
    (2, "store"),
    (1, "disk"),
    (1, "spec"),
    (1, "sys"),
];

/// The one crate that may hold unsafe code.
const UNSAFE: &str = "sys";

/// Names that say nothing of what is in a file.
const NAMELESS: &[&str] = &["util", "utils", "common", "types", "helpers", "helper", "misc"];

#[test]
fn crates_depend_downwards() {
    let root = workspace();
    let inherited = manifest(&root.join("Cargo.toml"));
    let paths = paths_of(&inherited["workspace"]["dependencies"]);
    let mut breaches = Vec::new();
    for (name, dir) in crates(&root) {
        let own = manifest(&dir.join("Cargo.toml"));
        breaches.extend(breaches_of(&name, &own, &paths));
    }
    report(breaches);
}

#[test]
fn unsafe_code_is_in_one_crate() {
    let root = workspace();
    let mut breaches = Vec::new();
    let others = crates(&root).into_iter().filter(|(name, _)| name != UNSAFE);
    for dir in others.map(|(_, dir)| dir).chain([root.join("xtask")]) {
        for file in rust_files(&dir) {
            let text = fs::read_to_string(&file).expect("a source file is text");
            for line in lines_with(&text, "unsafe") {
                breaches.push(format!("{}:{line}: unsafe, outside of {UNSAFE}", shown(&file)));
            }
        }
    }
    report(breaches);
}

#[test]
fn crates_have_the_workspaces_lints() {
    let root = workspace();
    let workspace = manifest(&root.join("Cargo.toml"));
    let wanted = &workspace["workspace"]["lints"];
    assert_eq!(wanted["rust"]["unsafe_code"].as_str(), Some("forbid"));
    let mut breaches = Vec::new();
    for (name, dir) in crates(&root).into_iter().chain([("xtask".to_owned(), root.join("xtask"))]) {
        let file = dir.join("Cargo.toml");
        let own = manifest(&file);
        let lints = own.get("lints");
        let breach = if name == UNSAFE {
            let safety = lints
                .and_then(|lints| lints.get("clippy")?.get("undocumented_unsafe_blocks")?.as_str());
            (!matches!(safety, Some("warn" | "deny")))
                .then_some("lacks clippy's undocumented_unsafe_blocks")
        } else {
            let inherits = lints.and_then(|lints| lints.get("workspace")?.as_bool());
            (inherits != Some(true)).then_some("lacks the workspace's lints")
        };
        breaches.extend(breach.map(|breach| format!("{}: {breach}", shown(&file))));
    }
    report(breaches);
}

#[test]
fn files_are_named_for_what_they_hold() {
    let root = workspace();
    let mut breaches = Vec::new();
    for (_, dir) in crates(&root) {
        for file in rust_files(&dir) {
            let inside = file.strip_prefix(&dir).expect("it was found below");
            let nameless = inside.iter().any(|part| {
                let part = Path::new(part).file_stem().and_then(|stem| stem.to_str());
                part.is_some_and(|part| NAMELESS.contains(&part))
            });
            if nameless {
                breaches.push(format!("{}: is named for nothing", shown(&file)));
            }
        }
    }
    report(breaches);
}

fn report(breaches: Vec<String>) {
    assert!(breaches.is_empty(), "the rules of the house are broken:\n{}", breaches.join("\n"));
}

/// Where the workspace is now: not where it was compiled, because an archive of tests may
/// run beside a copy of the sources.
fn workspace() -> PathBuf {
    let own = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo and nextest set it");
    Path::new(&own).parent().expect("xtask lies in the workspace").to_owned()
}

fn shown(file: &Path) -> String {
    file.strip_prefix(workspace()).unwrap_or(file).display().to_string()
}

/// The crates by the names of their directories.
fn crates(root: &Path) -> BTreeMap<String, PathBuf> {
    let entries = fs::read_dir(root.join("crates")).expect("the workspace has crates");
    let crates: BTreeMap<String, PathBuf> = entries
        .map(|entry| entry.expect("an entry of crates").path())
        .filter(|dir| dir.join("Cargo.toml").is_file())
        .map(|dir| (name_of(&dir), dir))
        .collect();
    assert!(crates.contains_key("spec") && crates.contains_key("sys"), "{crates:?}");
    crates
}

fn name_of(dir: &Path) -> String {
    dir.file_name()
        .and_then(|name| name.to_str())
        .expect("a crate's directory has a name")
        .to_owned()
}

fn manifest(file: &Path) -> Table {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", shown(file)));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", shown(file)))
}

/// The crates behind dependencies that have a path, by the names of their directories.
fn paths_of(dependencies: &Value) -> BTreeMap<String, String> {
    let entries = dependencies.as_table().into_iter().flatten();
    entries
        .filter_map(|(key, value)| {
            let path = value.get("path")?.as_str()?;
            Some((key.clone(), name_of(Path::new(path))))
        })
        .collect()
}

/// Dependencies of every kind, those for single targets included, that are no lower crates.
fn breaches_of(name: &str, own: &Table, inherited: &BTreeMap<String, String>) -> Vec<String> {
    let floor = |name: &str| FLOORS.iter().find(|(_, own)| *own == name).map(|(floor, _)| *floor);
    let Some(own_floor) = floor(name) else {
        return vec![format!(
            "crates/{name}: has no floor: add it to ARCHITECTURE.md and to FLOORS"
        )];
    };
    let targets = own.get("target").and_then(Value::as_table).into_iter().flatten();
    let tables = std::iter::once(own).chain(targets.filter_map(|(_, table)| table.as_table()));
    let mut breaches = Vec::new();
    for table in tables {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependencies) = table.get(kind) else { continue };
            let own_paths = paths_of(dependencies);
            for key in dependencies.as_table().into_iter().flatten().map(|(key, _)| key) {
                let Some(other) = own_paths.get(key).or_else(|| inherited.get(key)) else {
                    continue;
                };
                let breach = match floor(other) {
                    Some(floor) if floor < own_floor => continue,
                    Some(floor) if floor == own_floor => "beside it",
                    Some(_) => "above it",
                    None => "on no floor",
                };
                breaches.push(format!(
                    "crates/{name}/Cargo.toml: {kind}: {other} is {breach}, {name} is on floor {own_floor}"
                ));
            }
        }
    }
    breaches
}

/// Every Rust file below, but for what was built.
fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The lines, from 1, on which a word is an identifier or keyword of Rust code, not part of a
/// longer one, a comment or a literal.
fn lines_with(text: &str, word: &str) -> Vec<usize> {
    let code = without_comments_and_literals(text);
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let lines = code.lines().enumerate();
    let found = lines.filter(|(_, line)| line.split(|c| !is_part(c)).any(|token| token == word));
    found.map(|(index, _)| index + 1).collect()
}

/// The text with all that is no code blanked, line ends kept.
fn without_comments_and_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let before = code.chars().next_back();
        let length = length_of_non_code(rest, before).unwrap_or(0);
        let (taken, next) = rest.split_at(length.max(c.len_utf8()));
        if length == 0 {
            code.push_str(taken);
        } else {
            code.push(' ');
            code.extend(taken.chars().filter(|&c| c == '\n'));
        }
        rest = next;
    }
    code
}

/// Bytes of the comment or literal that `rest` starts with.
fn length_of_non_code(rest: &str, before: Option<char>) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    // The prefix of a literal is no tail of a name.
    let in_name = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let prefix = rest.find(|c| !matches!(c, 'b' | 'c' | 'r')).filter(|&n| n <= 2 && !in_name);
    let after = &rest[prefix.unwrap_or(0)..];
    let raw = rest[..prefix.unwrap_or(0)].contains('r');
    if raw && after.starts_with(['"', '#']) {
        let hashes = after.len() - after.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let body = after[hashes..].strip_prefix('"')?;
        let length = body.find(&end).map_or(body.len(), |at| at + end.len());
        return Some(rest.len() - body.len() + length);
    }
    let (quote, body) = match after.chars().next()? {
        '"' => ('"', &after[1..]),
        // A lifetime has no closing quote after its first character.
        '\'' => {
            let body = &after[1..];
            let first = body.chars().next()?;
            let closes = body[first.len_utf8()..].starts_with('\'');
            if first != '\\' && !closes {
                return None;
            }
            ('\'', body)
        }
        _ => return None,
    };
    let mut escaped = false;
    let end = body.char_indices().find(|&(_, c)| {
        let ends = c == quote && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    Some(rest.len() - body.len() + end.map_or(body.len(), |(at, _)| at + 1))
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

#[test]
fn the_scanner_sees_code_only() {
    let seen = |text: &str| lines_with(text, "unsafe");
    for (text, lines) in [
        ("unsafe { x() }", vec![1]),
        ("fn a() {}\n\nunsafe fn b() {}\n", vec![3]),
        ("a /* unsafe */ b\nunsafe", vec![2]),
        ("/* /* */ unsafe */\n*/ unsafe", vec![2]),
        ("// unsafe\n/// unsafe\n//! unsafe\nx", vec![]),
        ("#![forbid(unsafe_code)] not_unsafe unsafely", vec![]),
        ("let a = \"unsafe\\\"unsafe\"; unsafe", vec![1]),
        ("let a = \"unsafe\n\n\"; \n unsafe", vec![4]),
        ("let a = r#\"\" unsafe \"#;\nb\"unsafe\" c\"unsafe\" br\"unsafe\\\" x", vec![]),
        ("let a = '\"'; unsafe", vec![1]),
        ("let a = '\\''; unsafe { '\"' }", vec![1]),
        ("fn a<'a>(b: &'a str) { unsafe {} }", vec![1]),
        ("let bar\"unsafe\"", vec![]),
        ("let a = b'x'; let c = b'\\\\'; unsafe", vec![1]),
        ("let r = br; unsafe", vec![1]),
        ("r#unsafe", vec![1]),
        ("\"never closed unsafe", vec![]),
    ] {
        assert_eq!(seen(text), lines, "{text}");
    }
}

#[test]
fn the_floors_are_enforced() {
    let inherited: BTreeMap<String, String> =
        FLOORS.iter().map(|(_, name)| ((*name).to_owned(), (*name).to_owned())).collect();
    let check =
        |name: &str, text: &str| breaches_of(name, &text.parse().expect("a manifest"), &inherited);
    assert!(check("engine", "[dependencies]\nsys.workspace = true\nserde = \"1\"\n").is_empty());
    for (name, text, part) in [
        ("engine", "[dependencies]\nbakery.workspace = true", "bakery is beside it"),
        ("spec", "[dependencies]\nstore.workspace = true", "store is above it"),
        ("store", "[dev-dependencies]\nbakery.workspace = true", "dev-dependencies: bakery"),
        ("sys", "[build-dependencies]\nspec = { workspace = true }", "spec is beside it"),
        ("plan", "[target.'cfg(unix)'.dependencies]\nnet.workspace = true", "net is beside it"),
        ("plan", "[dependencies]\nx = { path = \"../harness\" }", "harness is above it"),
        ("plan", "[dependencies]\nx = { path = \"../other\" }", "other is on no floor"),
        ("other", "", "has no floor"),
    ] {
        let breaches = check(name, text);
        assert!(matches!(&breaches[..], [one] if one.contains(part)), "{part}: {breaches:?}");
    }
}
