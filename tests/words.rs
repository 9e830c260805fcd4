//! Holds the language of the project: phrases that may not come back, the width of lines, and links between pages.
//!
//! Text is plain technical English: a noun as the subject, one idea a sentence, the terms of the field. The phrases below
//! are what the text had instead, each with what replaces it. CONTRIBUTING.md has the rules.

#![expect(clippy::unwrap_used, reason = "helpers of a test")]

use std::fs;
use std::path::Path;

/// Phrase in lower case, as whole words, and what to write instead.
const PHRASES: [(&str, &str); 44] = [
    ("whoever", "name the actor: the client, the operator, the process that ..."),
    ("whosoever", "name the actor"),
    ("nobody", "no client, no caller, no process"),
    ("somebody", "name the actor"),
    ("such a one", "name the thing again"),
    ("for so long", "for this duration, for `idle_timeout`"),
    ("so many bytes", "`n` bytes, the number of bytes"),
    ("of so many", "give the number a name"),
    ("the one above", "name the thing again"),
    ("the one before", "the previous ..."),
    ("say goodbye", "send close_notify, close"),
    ("says goodbye", "sends close_notify, closes"),
    ("goodbye", "close_notify"),
    ("last words", "final reply"),
    ("our certificate", "the gateway's client certificate, the listener's server certificate"),
    ("our certificates", "the gateway's client certificates, the listener's server certificates"),
    ("our client certificate", "the gateway's client certificate"),
    ("our key", "the private key"),
    ("not any more", "no longer"),
    ("any more", "no longer"),
    ("in mongod's stead", "itself, locally"),
    ("lately", "recently"),
    ("but for", "except, except for"),
    ("who has none", "a caller without ..."),
    ("all the same", "anyway, nevertheless"),
    ("whose affair", "who is responsible for"),
    ("is told", "receives, learns; or name what is logged"),
    ("are told", "receive, learn; or name what is logged"),
    ("to be told", "receive, learn"),
    ("has been told", "has received"),
    ("made anew", "recomputed, opened again, created again"),
    ("begins anew", "starts again, restarts"),
    ("as it stands", "unchanged, as written"),
    ("as they stand", "unchanged, as written"),
    ("of its own accord", "by itself"),
    ("in its turn", "in order"),
    ("it is to be", "it must, it will"),
    ("constable", "CallerPolicySource"),
    ("roster", "membership"),
    ("the shelf", "the spare connections"),
    ("the guard", "the policy filter"),
    ("the desk", "the connection state"),
    ("the terms of", "the handshake filter, the settings of"),
    ("mind expiry", "log expiry, watch the expiry of"),
];

/// Folders and files that are not the project's own text.
const LEFT_OUT: [&str; 9] = [
    ".git",
    "target",
    "node_modules",
    "LICENSE",
    "Cargo.lock",
    "package-lock.json",
    "performance.json",
    // Partly written by the benchmark.
    "performance.md",
    // This list.
    "words.rs",
];

/// Columns of a line, except where a line cannot be broken.
const WIDTH: usize = 120;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All text files of the project: path relative to the root, and text.
fn texts() -> Vec<(String, String)> {
    let (mut folders, mut texts) = (vec![root().to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let (path, name) = (entry.path(), entry.file_name());
            if LEFT_OUT.iter().any(|left_out| name == *left_out) {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if is_text(&path) {
                let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
                texts.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(texts.len() > 200, "the project was found");
    texts.sort();
    texts
}

fn is_text(path: &Path) -> bool {
    const ENDINGS: [&str; 10] = ["rs", "md", "toml", "sh", "py", "js", "mjs", "yml", "yaml", "service"];
    let ending = path.extension().map(|ending| ending.to_string_lossy().into_owned());
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) || path.ends_with(".ci/run")
}

/// A text in lower case, every run of white space and comment signs as one space, with the line that each byte is from.
fn flattened(text: &str) -> (String, Vec<usize>) {
    let (mut flat, mut lines) = (String::from(" "), vec![1]);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim().trim_start_matches(['/', '!', '#', '*', '>']).to_lowercase();
        for word in line.split(|c: char| c.is_whitespace() || c == '\\').filter(|word| !word.is_empty()) {
            flat.push_str(word);
            flat.push(' ');
            lines.resize(flat.len(), number + 1);
        }
    }
    (flat, lines)
}

/// `line: phrase` for each phrase that `text` has as whole words.
fn found_in(text: &str) -> Vec<(usize, &'static str)> {
    let (flat, lines) = flattened(text);
    let is_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let mut found = Vec::new();
    for (phrase, _) in PHRASES {
        for (at, _) in flat.match_indices(phrase) {
            let (before, after) = (flat[..at].chars().next_back(), flat[at + phrase.len()..].chars().next());
            // `--nobody` is an option, and `nobody = true` a key: names that the operator uses.
            let is_name = matches!(before, Some('-' | '.' | '`' | '"')) || matches!(after, Some('`' | '"' | ':'));
            let is_key = flat[at + phrase.len()..].starts_with(" =");
            if !is_word(before) && !is_word(after) && !is_name && !is_key {
                found.push((lines[at], phrase));
            }
        }
    }
    found
}

/// Lines of more than [`WIDTH`] columns that could be broken: no table row, no link or address, no quoted output.
fn wide_lines(name: &str, text: &str) -> Vec<usize> {
    let is_markdown = is_markdown(name);
    let mut in_code = false;
    let mut wide = Vec::new();
    for (number, line) in text.lines().enumerate() {
        in_code ^= is_markdown && line.trim_start().starts_with("```");
        let is_unbreakable = is_markdown && (in_code || line.starts_with('|') || line.contains("]("));
        // A string that is compared as a whole is not broken either.
        let is_raw_string = line.trim_start().starts_with("r#\"");
        if line.chars().count() > WIDTH && !is_unbreakable && !is_raw_string && !line.contains("://") {
            wide.push(number + 1);
        }
    }
    wide
}

fn is_markdown(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|ending| ending == "md")
}

/// The targets of links in a page, except addresses on the network.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', ' ', '\n']).next());
    targets.filter(|target| !target.contains("://") && !target.is_empty()).collect()
}

/// What links to parts of a page may name: its headings as GitHub writes them, and `<a id="...">`.
fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    });
    let named = text.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned);
    headings.chain(named).collect()
}

/// `path` without `..` and `.`.
fn normal(path: &Path) -> std::path::PathBuf {
    path.components().fold(std::path::PathBuf::new(), |mut normal, part| {
        match part {
            std::path::Component::ParentDir => drop(normal.pop()),
            std::path::Component::CurDir => {}
            part => normal.push(part),
        }
        normal
    })
}

#[test]
fn phrases_that_were_replaced_do_not_come_back() {
    let mut wrong = Vec::new();
    for (name, text) in texts() {
        for (line, phrase) in found_in(&text) {
            let instead = PHRASES.iter().find(|(known, _)| *known == phrase).map(|(_, instead)| *instead);
            wrong.push(format!("{name}:{line}: \"{phrase}\"; write: {}", instead.unwrap_or_default()));
        }
    }
    assert!(wrong.is_empty(), "{} places\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn lines_have_at_most_120_columns() {
    let mut wrong = Vec::new();
    for (name, text) in texts() {
        wrong.extend(wide_lines(&name, &text).into_iter().map(|line| format!("{name}:{line}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn links_between_pages_lead_somewhere() {
    let pages: Vec<(String, String)> = texts().into_iter().filter(|(name, _)| is_markdown(name)).collect();
    let mut wrong = Vec::new();
    for (name, text) in &pages {
        for link in links(text) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let folder = Path::new(name).parent().unwrap();
            let target = if path.is_empty() { Path::new(name).to_owned() } else { normal(&folder.join(path)) };
            if !root().join(&target).exists() {
                wrong.push(format!("{name}: {link}: there is no such file"));
                continue;
            }
            let page = pages.iter().find(|(page, _)| Path::new(page) == target);
            let has_anchor = page.is_none_or(|(_, text)| anchors(text).iter().any(|known| known == anchor));
            if !anchor.is_empty() && !has_anchor {
                wrong.push(format!("{name}: {link}: there is no such heading"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_phrase_is_found_across_lines_and_only_as_whole_words() {
    let found = |text: &str| found_in(text).into_iter().map(|(line, _)| line).collect::<Vec<_>>();
    assert_eq!(found("/// Nobody is here."), [1]);
    assert_eq!(found("a\n/// nothing moved for\n/// so long."), [2]);
    assert_eq!(found("let text = \"is not \\\n    any more true\";"), [1, 2], "the longer phrase, and the one in it");
    assert_eq!(found("stipulately"), [0; 0]);
    assert_eq!(found("`is_told`, is toldable"), [0; 0]);
    assert_eq!(found("nobody_else and nobodys"), [0; 0]);
    assert_eq!(found("--nobody, nobody = true, `nobody`"), [0; 0]);
}

#[test]
fn a_wide_line_is_found_where_it_can_be_broken() {
    let long = "x ".repeat(61);
    let check = |name: &str, text: &str, wide: &[usize]| assert_eq!(wide_lines(name, text), wide, "{name}: {text}");
    check("a.rs", &long, &[1]);
    check("a.md", &long, &[1]);
    check("a.md", &format!("| {long} |"), &[]);
    check("a.md", &format!("```text\n{long}\n```\n{long}"), &[4]);
    check("a.rs", &format!("// https://example.com {long}"), &[]);
}
