//! Checks the sources against the import rules of ARCHITECTURE.md.
//!
//! The sources are parsed as tokens. Each path that begins with `crate`, `super` or `self` is
//! resolved to the module that it names, including paths in the braces of `use` declarations.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The folders and single files below `src/`, and what each may import besides itself. The folders
/// of `core/` and `adapters/` are listed one by one. No folder imports one that is listed after it.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("stop", &[]),
    ("client", &[]),
    ("clear_text", &[]),
    ("core::model", &[]),
    ("core::metrics", &["core::model"]),
    ("core::ports", &["core::model"]),
    ("core::engine", &["core::model", "core::metrics", "core::ports"]),
    ("adapters::http_client", &[]),
    ("adapters::memory", &["core"]),
    ("adapters::sqlite", &["core"]),
    ("adapters::redis", &["core", "clear_text", "adapters::http_client"]),
    ("adapters::aws", &["core"]),
    ("adapters::otlp", &["core", "adapters::http_client"]),
    ("webhooks", &["core", "clear_text", "adapters::http_client"]),
    ("http", &["core"]),
    ("config", &["core", "clear_text", "webhooks"]),
    ("telemetry", &["core", "config"]),
    ("top", &["core", "client"]),
    (
        "wiring",
        &["core", "clear_text", "adapters", "webhooks", "http", "config", "stop", "telemetry"],
    ),
    ("load", &["core", "client"]),
    (
        "cmd",
        &[
            "core",
            "webhooks",
            "http",
            "config",
            "stop",
            "client",
            "telemetry",
            "top",
            "wiring",
            "load",
        ],
    ),
];

/// Largest number of files that may import each other in a cycle.
const CYCLE_MAX: usize = 3;
const LINES_MAX: usize = 450;

struct Module {
    /// For example `core::model::ids`; empty for `lib.rs`.
    name: String,
    file: PathBuf,
    text: String,
    /// Imported modules, without those of its tests.
    imports: BTreeSet<String>,
    /// Crates named in paths.
    crates: BTreeSet<String>,
}

fn rust_files(root: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = vec![root.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files
}

fn name_of(file: &Path) -> String {
    let segments: Vec<&str> = file.iter().map(|part| part.to_str().unwrap()).collect();
    let name = segments.join("::");
    let name = name.trim_end_matches(".rs").trim_end_matches("::mod");
    if name == "lib" { String::new() } else { name.to_owned() }
}

fn modules() -> Vec<Module> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |path: PathBuf| {
        let file = path.strip_prefix(&root).unwrap().to_owned();
        (name_of(&file), file, std::fs::read_to_string(path).unwrap())
    };
    let files: Vec<_> = rust_files(&root).into_iter().map(read).collect();
    assert!(files.len() > 30, "the sources were not found");
    let names: BTreeSet<String> = files.iter().map(|(name, ..)| name.clone()).collect();
    let module = |(name, file, text): (String, PathBuf, String)| {
        let mut paths = Paths { names: &names, imports: BTreeSet::new(), crates: BTreeSet::new() };
        paths.read(text.parse().unwrap(), &segments(&name));
        let Paths { mut imports, crates, .. } = paths;
        imports.remove(&name);
        Module { name, file, text, imports, crates }
    };
    files.into_iter().map(module).collect()
}

fn segments(path: &str) -> Vec<String> {
    path.split("::").filter(|s| !s.is_empty()).map(str::to_owned).collect()
}

/// Collects the modules and crates that the paths of a file name.
struct Paths<'a> {
    names: &'a BTreeSet<String>,
    imports: BTreeSet<String>,
    crates: BTreeSet<String>,
}

impl Paths<'_> {
    fn read(&mut self, tokens: TokenStream, module: &[String]) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            let begins_path = ident(tokens.get(at)).is_some() && is_path_sep(&tokens, at + 1);
            match (&tokens[at], ident(tokens.get(at))) {
                (TokenTree::Ident(_), Some(word)) if begins_path => {
                    self.path(&tokens[at..], module);
                    self.crates.insert(word);
                    while is_path_sep(&tokens, at + 1) && ident(tokens.get(at + 3)).is_some() {
                        at += 3;
                    }
                    // `path` has already read the braces of a `use`.
                    at += if is_path_sep(&tokens, at + 1) { 3 } else { 0 };
                }
                (TokenTree::Ident(_), Some(word)) if word == "mod" => {
                    let inner = ident(tokens.get(at + 1)).unwrap_or_default();
                    if let Some(TokenTree::Group(body)) = tokens.get(at + 2) {
                        let inside: Vec<String> =
                            module.iter().cloned().chain([inner.clone()]).collect();
                        if inner != "tests" {
                            self.read(body.stream(), &inside);
                        }
                        at += 2;
                    }
                }
                (TokenTree::Group(group), _) => self.read(group.stream(), module),
                _ => {}
            }
            at += 1;
        }
    }

    /// Reads the path at the start of these tokens, with all branches of its braces.
    fn path(&mut self, tokens: &[TokenTree], module: &[String]) {
        let Some(first) = ident(tokens.first()) else { return };
        let base = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.to_vec(),
            "super" => module[..module.len().saturating_sub(1)].to_vec(),
            _ => return,
        };
        self.rest(&tokens[1..], base);
    }

    fn rest(&mut self, tokens: &[TokenTree], mut path: Vec<String>) {
        if !is_path_sep(tokens, 0) {
            return self.import(&path);
        }
        match (&tokens.get(2), ident(tokens.get(2))) {
            (_, Some(word)) if word == "super" => {
                path.pop();
                self.rest(&tokens[3..], path);
            }
            (_, Some(word)) => {
                path.push(word);
                self.rest(&tokens[3..], path);
            }
            (Some(TokenTree::Group(group)), _) if group.delimiter() == Delimiter::Brace => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                for branch in
                    inner.split(|t| matches!(t, TokenTree::Punct(p) if p.as_char() == ','))
                {
                    let mut path = path.clone();
                    path.extend(ident(branch.first()).filter(|word| word != "self"));
                    self.rest(branch.get(1..).unwrap_or_default(), path);
                }
            }
            _ => self.import(&path),
        }
    }

    /// Adds the longest prefix of the path that is a module.
    fn import(&mut self, path: &[String]) {
        let lengths = (1..=path.len()).rev();
        let mut prefixes = lengths.map(|length| path[..length].join("::"));
        self.imports.extend(prefixes.find(|prefix| self.names.contains(prefix)));
    }
}

fn ident(token: Option<&TokenTree>) -> Option<String> {
    match token {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    }
}

fn is_path_sep(tokens: &[TokenTree], at: usize) -> bool {
    let colon =
        |t: Option<&TokenTree>| matches!(t, Some(TokenTree::Punct(p)) if p.as_char() == ':');
    colon(tokens.get(at)) && colon(tokens.get(at + 1))
}

fn lies_in(name: &str, folder: &str) -> bool {
    name == folder || name.strip_prefix(folder).is_some_and(|rest| rest.starts_with("::"))
}

/// The row of [`MAY_IMPORT`] for a module; `None` for the roots, which only declare modules.
fn folder_of(name: &str) -> Option<usize> {
    MAY_IMPORT.iter().position(|(folder, _)| lies_in(name, folder))
}

fn assert_none(found: impl IntoIterator<Item = String>) {
    let found: Vec<String> = found.into_iter().collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn each_folder_imports_only_what_it_may() {
    let mut found = Vec::new();
    for module in modules() {
        let Some(row) = folder_of(&module.name) else { continue };
        let (folder, allowed) = MAY_IMPORT[row];
        for import in &module.imports {
            // `core` and `adapters` themselves only declare modules and shared types.
            let is_allowed = |other: &&str| lies_in(import, other) || lies_in(other, import);
            if !lies_in(import, folder) && !allowed.iter().any(is_allowed) {
                found.push(format!("{} imports {import}", module.file.display()));
            }
        }
    }
    assert_none(found);
}

#[test]
fn imports_run_downwards_only() {
    let upwards = MAY_IMPORT.iter().enumerate().flat_map(|(row, (folder, allowed))| {
        let of = move |other: &&&str| {
            let rows = MAY_IMPORT.iter().enumerate().filter(|(_, (name, _))| lies_in(name, other));
            rows.map(|(row, _)| row).max().is_none_or(|last| last > row)
        };
        allowed.iter().filter(of).map(move |other| format!("{folder} -> {other}"))
    });
    assert_none(upwards);
}

#[test]
fn every_file_is_in_a_listed_folder() {
    let roots = ["", "main", "core", "adapters"];
    let outside = |m: &Module| folder_of(&m.name).is_none() && !roots.contains(&m.name.as_str());
    assert_none(modules().into_iter().filter(outside).map(|m| m.file.display().to_string()));
}

#[test]
fn import_cycles_are_small_and_in_one_folder() {
    let modules = modules();
    let imports: BTreeMap<&str, &BTreeSet<String>> =
        modules.iter().map(|m| (m.name.as_str(), &m.imports)).collect();
    let reached = |from: &str| {
        let mut reached = BTreeSet::new();
        let mut todo = vec![from.to_owned()];
        while let Some(name) = todo.pop() {
            let next = imports.get(name.as_str()).into_iter().flat_map(|names| names.iter());
            todo.extend(next.filter(|name| reached.insert(name.to_string())).cloned());
        }
        reached
    };
    let all: BTreeMap<&str, BTreeSet<String>> =
        imports.keys().map(|name| (*name, reached(name))).collect();
    let mut found = BTreeSet::new();
    for (name, reached) in &all {
        let cycle: BTreeSet<&str> = reached
            .iter()
            .map(String::as_str)
            .filter(|other| all.get(other).is_some_and(|back| back.contains(*name)))
            .collect();
        let folders: BTreeSet<_> = cycle.iter().map(|name| folder_of(name)).collect();
        if cycle.len() > CYCLE_MAX || folders.len() > 1 {
            found.insert(format!("{cycle:?}"));
        }
    }
    assert_none(found);
}

#[test]
fn only_adapters_name_vendor_crates() {
    let vendors =
        [("rusqlite", "sqlite"), ("fred", "redis"), ("aws_", "aws"), ("opentelemetry", "otlp")];
    let mut found = Vec::new();
    for module in modules() {
        for (prefix, folder) in vendors {
            let named = module.crates.iter().any(|name| name.starts_with(prefix));
            if named && !lies_in(&module.name, &format!("adapters::{folder}")) {
                found.push(format!("{} names {prefix}", module.file.display()));
            }
        }
    }
    assert_none(found);
}

/// Clippy bans direct reads of the clock; `SystemClock` is the only other way to read it.
#[test]
fn only_entry_points_read_the_system_clock() {
    let starts = |m: &Module| {
        ["core::model", "wiring", "cmd", "load"].iter().any(|folder| lies_in(&m.name, folder))
    };
    let reads = |m: &Module| !starts(m) && m.text.contains("SystemClock");
    assert_none(modules().into_iter().filter(reads).map(|m| m.file.display().to_string()));
}

#[test]
fn decide_is_pure() {
    let impure = ["async", "await", "tokio", "time", "Instant", "SystemTime", "tracing", "rand"];
    let modules = modules();
    let decide = modules.iter().find(|m| m.name == "core::model::decide").unwrap();
    let code = decide.text.split("#[cfg(test)]").next().unwrap();
    let words: BTreeSet<&str> = code.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    assert_none(impure.iter().filter(|word| words.contains(*word)).map(|word| word.to_string()));
}

#[test]
fn tests_named_in_architecture_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut code: String = modules().into_iter().map(|m| m.text).collect();
    for file in rust_files(&root.join("tests")) {
        code += &std::fs::read_to_string(file).unwrap();
    }
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let quoted = text.split('`').skip(1).step_by(2);
    let names = quoted.filter_map(|q| q.rsplit("::").next()).filter(|n| n.matches('_').count() > 2);
    let names: Vec<&str> =
        names.filter(|n| n.chars().all(|c| c == '_' || c.is_lowercase())).collect();
    assert!(names.len() > 10, "{names:?}");
    let missing = names.iter().filter(|name| !code.contains(&format!("fn {name}(")));
    assert_none(missing.map(|name| format!("there is no test {name}")));
}

#[test]
fn paths_named_in_architecture_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let quoted = text.split('`').skip(1).step_by(2);
    let is_path = |q: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-/.".contains(c);
        (q.ends_with(".rs") || q.ends_with('/')) && q.chars().all(plain)
    };
    let paths: Vec<&str> = quoted.filter(is_path).collect();
    assert!(paths.len() > 10, "{paths:?}");
    let missing = |path: &&&str| !root.join(path).exists() && !root.join("src").join(path).exists();
    assert_none(paths.iter().filter(missing).map(|path| format!("there is no {path}")));
}

#[test]
fn files_are_under_450_lines() {
    let long = |m: &Module| m.text.lines().count() > LINES_MAX;
    assert_none(modules().into_iter().filter(long).map(|m| m.file.display().to_string()));
}
