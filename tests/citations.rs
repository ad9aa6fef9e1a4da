//! Every file and every heading that a comment or a document cites exists.
//!
//! Cited are: targets of markdown links (`[text](path#heading)`), paths in prose or in backticks (a path with a folder
//! and a known extension, or a name that ends in `.md` or `.rs`), and a heading in quotes behind such a path and a
//! comma. A path is looked up in the folder of the file that cites it, in all folders above, and in `src/`.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// Extensions of files that text cites. Other names with a slash are often not files (rates, alternatives, URLs).
const EXTENSIONS: [&str; 8] = ["rs", "md", "proto", "toml", "sh", "py", "js", "service"];

/// Folders that hold no sources: build output, the repository's own data, inputs and expected outputs of tests.
const SKIPPED_FOLDERS: [&str; 5] = ["target", ".git", "node_modules", "corpus", "golden"];

/// Fewer citations than this in the whole tree mean that the test does not find them.
const CITATIONS_MIN: usize = 60;

/// The files of a repository, and the headings of its documents.
#[derive(Debug, Default)]
struct Tree {
    /// Paths relative to the root, with slashes.
    files: BTreeSet<String>,
    folders: BTreeSet<String>,
    /// By document.
    headings: BTreeMap<String, Vec<String>>,
}

impl Tree {
    fn add(&mut self, path: &str, text: &str) {
        for (at, _) in path.match_indices('/') {
            self.folders.insert(path[..at].to_owned());
        }
        if path.ends_with(".md") {
            self.headings.insert(path.to_owned(), headings(text));
        }
        self.files.insert(path.to_owned());
    }

    /// Whether there is such a file or folder, or a source file whose extension is left out.
    fn has(&self, path: &str) -> bool {
        self.files.contains(path) || self.folders.contains(path) || self.files.contains(&format!("{path}.rs"))
    }

    /// The path below the root that `cited` means when it is written in `file`.
    fn resolve(&self, file: &str, cited: &str) -> Option<String> {
        let mut above = file;
        loop {
            above = above.rsplit_once('/').map_or("", |(folder, _)| folder);
            if let Some(path) = join(above, cited).filter(|path| self.has(path)) {
                return Some(path);
            }
            if above.is_empty() {
                break;
            }
        }
        if let Some(path) = join("src", cited).filter(|path| self.has(path)) {
            return Some(path);
        }
        // A bare name of a source file means that file, wherever it is.
        let named = |path: &&String| !cited.contains('/') && path.rsplit('/').next() == Some(cited);
        if cited.ends_with(".rs") { self.files.iter().find(named).cloned() } else { None }
    }

    /// `None`: the citation is good. Else what is wrong with it.
    fn judge(&self, file: &str, citation: &Citation) -> Option<String> {
        let path = if citation.path.is_empty() { file.to_owned() } else { citation.path.clone() };
        let Some(found) = self.resolve(file, &path) else {
            return Some(format!("{path} does not exist"));
        };
        let missing = |what: &str| Some(format!("{found} has no heading {what}"));
        let headings = self.headings.get(&found)?;
        match &citation.heading {
            Some(Heading::Anchor(anchor)) if !anchors(headings).contains(anchor) => missing(&format!("#{anchor}")),
            Some(Heading::Text(text)) if !headings.iter().any(|h| h.eq_ignore_ascii_case(text)) => {
                missing(&format!("\"{text}\""))
            }
            _ => None,
        }
    }
}

/// `folder/path` with `.` and `..` resolved; `None` above the root.
fn join(folder: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            parts.pop()?;
        } else {
            parts.push(part);
        }
    }
    Some(parts.join("/"))
}

/// Which heading of a document is cited.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heading {
    /// As in a link: `#moving-slots`.
    Anchor(String),
    /// As in prose: `"Moving slots"`.
    Text(String),
}

/// A file, or a heading of it, that a text names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Citation {
    /// Line of the citing file, from 1.
    line: usize,
    /// Empty: the citing file itself.
    path: String,
    heading: Option<Heading>,
}

/// The headings of a document, without their markup.
fn headings(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        let title = line.trim_start_matches('#');
        if !fenced && title.len() < line.len() && title.starts_with(' ') {
            found.push(title.trim().replace(['`', '*'], ""));
        }
    }
    found
}

/// The anchors that GitHub makes of headings: lower case, punctuation removed, spaces as hyphens, repeated ones
/// numbered.
fn anchors(headings: &[String]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for heading in headings {
        let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
        let slug = heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-");
        let numbered = (1..).map(|n| format!("{slug}-{n}"));
        let free = std::iter::once(slug.clone()).chain(numbered).find(|slug| !found.contains(slug));
        found.extend(free);
    }
    found
}

/// How the text of a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Only its comments, from `//` on, are read.
    Code,
    /// All of it is read.
    Prose,
}

impl Kind {
    /// `None`: the file is not read.
    fn of(path: &str) -> Option<Self> {
        let name = path.rsplit('/').next().unwrap_or(path);
        match name.rsplit_once('.').map(|(_, extension)| extension) {
            Some("rs" | "proto" | "js") => Some(Self::Code),
            Some("md" | "py" | "sh" | "toml" | "service") => Some(Self::Prose),
            None if name == "Makefile" || path.starts_with("scripts/") || path.starts_with(".ci/") => Some(Self::Prose),
            _ => None,
        }
    }
}

/// Lines that belong together, with their numbers: a comment, or a paragraph.
type Passage = Vec<(usize, String)>;

/// The parts of a file that are read: all but code blocks that show a terminal.
fn passages(kind: Kind, text: &str) -> Vec<Passage> {
    let mut found: Vec<Passage> = vec![Vec::new()];
    let mut block: Option<Passage> = None;
    for (at, line) in text.lines().enumerate() {
        let content = match kind {
            Kind::Prose => Some(line),
            Kind::Code => comment(line),
        };
        let content = content.map(str::trim).unwrap_or_default();
        if content.starts_with("```") {
            match block.take() {
                None => block = Some(vec![(at + 1, content.to_owned())]),
                Some(lines) if is_terminal(&lines) => found.push(Vec::new()),
                Some(lines) => found.extend([lines, Vec::new()]),
            }
        } else if let Some(lines) = &mut block {
            lines.push((at + 1, content.to_owned()));
        } else if content.is_empty() {
            found.push(Vec::new());
        } else {
            found.last_mut().unwrap().push((at + 1, content.to_owned()));
        }
    }
    found.retain(|passage| !passage.is_empty());
    found
}

/// Whether a code block shows commands and what they print.
fn is_terminal(block: &Passage) -> bool {
    let info = block[0].1.trim_start_matches('`').trim();
    ["sh", "bash", "console", "shell"].contains(&info) || block.iter().any(|(_, line)| line.starts_with("$ "))
}

/// The comment of a line of code, if it has one.
fn comment(line: &str) -> Option<&str> {
    let mut from = 0;
    while let Some(at) = line[from..].find("//").map(|at| from + at) {
        // Within a string it is no comment; behind a colon it is a URL.
        let quotes = line[..at].bytes().filter(|b| *b == b'"').count();
        if quotes % 2 == 0 && !line[..at].ends_with(':') {
            return Some(line[at..].trim_start_matches(['/', '!']));
        }
        from = at + 2;
    }
    None
}

/// All that a passage cites, in its order.
fn citations(passage: &Passage) -> Vec<Citation> {
    let mut text = String::new();
    let mut starts = Vec::new();
    for (line, content) in passage {
        starts.push((text.len(), *line));
        text += content;
        text.push(' ');
    }
    let line = |at: usize| starts.iter().rev().find(|(start, _)| *start <= at).unwrap().1;
    let text = without_urls(&text);
    let mut found = Vec::new();
    let mut links = Vec::new();
    for (at, _) in text.match_indices("](") {
        let Some(end) = text[at..].find(')').map(|end| at + end) else { continue };
        let target = &text[at + 2..end];
        links.push(at + 2..end);
        let (path, anchor) = target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
        // What is left are links of rustdoc to items.
        if is_path(path) || (path.is_empty() && anchor.is_some()) {
            let heading = anchor.map(|anchor| Heading::Anchor(anchor.to_owned()));
            found.push((at, Citation { line: line(at), path: path.to_owned(), heading }));
        }
    }
    for (at, token) in tokens(&text) {
        if links.iter().any(|link| link.contains(&at)) {
            continue;
        }
        let backticked = text[..at].ends_with('`') && text[at + token.len()..].starts_with('`');
        let quoted = quoted_heading(&text[at + token.len()..]);
        for path in expand(token) {
            if is_path(&path) || (backticked && is_folder(&path)) {
                let heading = quoted.filter(|_| path.ends_with(".md")).map(|text| Heading::Text(text.to_owned()));
                found.push((at, Citation { line: line(at), path, heading }));
            }
        }
    }
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, citation)| citation).collect()
}

/// The text with URLs replaced by blanks of the same length.
fn without_urls(text: &str) -> String {
    let mut out = text.to_owned();
    while let Some(at) = out.find("://") {
        let start = out[..at].rfind(|c: char| !c.is_ascii_alphanumeric()).map_or(0, |before| before + 1);
        let end = out[at..].find([' ', ')', '>', '`', '"']).map_or(out.len(), |end| at + end);
        out.replace_range(start..end, &" ".repeat(end - start));
    }
    out
}

/// Words that could be paths, with their places. A comma belongs to one only between braces.
fn tokens(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let (mut start, mut depth) = (None, 0_usize);
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        let part = c.is_ascii_alphanumeric()
            || "_./-*".contains(c)
            || c == '{'
            || (depth > 0 && c == ',')
            || (depth > 0 && c == '}');
        match (part, start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                found.push((from, text[from..at].trim_end_matches(['.', '-', '/', ','])));
                start = None;
            }
            _ => {}
        }
        depth = match c {
            _ if !part => 0,
            '{' => depth + 1,
            '}' => depth.saturating_sub(1),
            _ => depth,
        };
    }
    // What follows a variable of a shell, or of a format string, is a part of a generated name.
    found.retain(|(at, _)| !text[..*at].ends_with(['$', '}', ')', '%', '<', '>', '~', '@', '=', '\\']));
    found
}

/// A path with alternatives in braces as one path for each. Nothing where a name is generated (`{name}`).
fn expand(token: &str) -> Vec<String> {
    let Some((before, rest)) = token.split_once('{') else { return vec![token.to_owned()] };
    let Some((inside, after)) = rest.split_once('}') else { return Vec::new() };
    if !inside.contains(',') || inside.contains('{') {
        return Vec::new();
    }
    inside.split(',').flat_map(|part| expand(&format!("{before}{part}{after}"))).collect()
}

/// Whether a word names a file of the repository.
fn is_path(word: &str) -> bool {
    let plain = word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_./-".contains(&b));
    let Some((stem, extension)) = word.rsplit_once('.').filter(|_| plain) else { return false };
    let first = word.split('/').next().unwrap_or_default();
    let outside = word.starts_with('/') || word.contains("...") || SKIPPED_FOLDERS.contains(&first);
    let named = word.contains('/') || ["md", "rs"].contains(&extension);
    let stem = stem.rsplit('/').next().unwrap_or_default();
    EXTENSIONS.contains(&extension) && named && !outside && !stem.is_empty() && stem != "."
}

/// Whether a word in backticks names a folder, or a file without an extension.
fn is_folder(word: &str) -> bool {
    const ROOTS: [&str; 8] = ["src", "tests", "docs", "cluster-tests", "examples", "benches", "scripts", "deploy"];
    let plain = word.bytes().all(|b| b.is_ascii_alphanumeric() || b"_/-".contains(&b));
    plain && word.split_once('/').is_some_and(|(first, _)| ROOTS.contains(&first))
}

/// The heading in what follows a cited path: `, "Heading"`.
fn quoted_heading(rest: &str) -> Option<&str> {
    let rest = rest.trim_start_matches(['`', ')']).strip_prefix(',')?.trim_start().strip_prefix('"')?;
    rest.split_once('"').map(|(heading, _)| heading.trim_end_matches(['.', ',']))
}

/// Adds every file below `folder` to the tree, and its text to `texts` if it is to be read.
fn read(root: &Path, folder: &Path, tree: &mut Tree, texts: &mut Vec<(String, Kind, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if !SKIPPED_FOLDERS.contains(&name.as_str()) {
                read(root, &path, tree, texts);
            }
            continue;
        }
        let below = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
        let kind = Kind::of(&below);
        let text = kind.and_then(|_| fs::read_to_string(&path).ok()).unwrap_or_default();
        tree.add(&below, &text);
        if let Some(kind) = kind {
            texts.push((below, kind, text));
        }
    }
}

#[test]
fn what_is_cited_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut tree, mut texts) = (Tree::default(), Vec::new());
    read(root, root, &mut tree, &mut texts);
    texts.sort();
    let (mut count, mut missing) = (0, Vec::new());
    for (file, kind, text) in &texts {
        for citation in passages(*kind, text).iter().flat_map(citations) {
            count += 1;
            missing.extend(tree.judge(file, &citation).map(|why| format!("{file}:{}: {why}", citation.line)));
        }
    }
    assert!(count >= CITATIONS_MIN, "only {count} citations were found in {} files: the reader is broken", texts.len());
    assert!(missing.is_empty(), "\n{}\n{} of {count} citations are wrong", missing.join("\n"), missing.len());
}

/// The citations of a sample, as `line path`, with `#anchor` or `"Heading"` behind.
fn cited(kind: Kind, text: &str) -> Vec<String> {
    let show = |c: Citation| match c.heading {
        None => format!("{} {}", c.line, c.path),
        Some(Heading::Anchor(anchor)) => format!("{} {}#{anchor}", c.line, c.path),
        Some(Heading::Text(text)) => format!("{} {} \"{text}\"", c.line, c.path),
    };
    passages(kind, text).iter().flat_map(citations).map(show).collect()
}

#[test]
fn links_and_paths_are_found_in_documents() {
    let text = "# Title\n\nSee [a](docs/a.md#part-one), [b](#title) and `src/x/y.rs`.\nBare plan/z.rs, and OTHER.md.\n";
    assert_eq!(
        cited(Kind::Prose, text),
        ["3 docs/a.md#part-one", "3 #title", "3 src/x/y.rs", "4 plan/z.rs", "4 OTHER.md"]
    );
    let braces = "Decisions (`src/plan/{acks,reads}.rs`) and the folder `tests/mover`.";
    assert_eq!(cited(Kind::Prose, braces), ["1 src/plan/acks.rs", "1 src/plan/reads.rs", "1 tests/mover"]);
}

#[test]
fn headings_are_found_behind_paths_also_across_lines() {
    let code = "    /// As docs/a.md,\n    /// \"Part one\", says.\n    fn f() {} // see `docs/b.md`, \"Two\"\n";
    assert_eq!(cited(Kind::Code, code), ["1 docs/a.md \"Part one\"", "3 docs/b.md \"Two\""]);
}

#[test]
fn code_outside_of_comments_is_not_read() {
    let code = "let p = \"docs/none.md\"; // docs/a.md\nlet u = \"https://x.org/y/z.md\";\nfn g() {}\n";
    assert_eq!(cited(Kind::Code, code), ["1 docs/a.md"]);
}

#[test]
fn what_is_no_citation_is_left_alone() {
    let shell = "```\n$ cat docs/none.md\nsrc/none.rs\n```\n";
    let sh = "```sh\ncat docs/none.md\n```\n";
    let others = "https://example.org/docs/none.md, target/debug/none.rs, `{name}.rs`, $dir/none.sh, /etc/none.toml, req/s, 1.5, \
                  *.rs, src/*.rs, [`x`](Self::x), [y](super::y).";
    for text in [shell, sh, others] {
        assert!(cited(Kind::Prose, text).is_empty(), "{:?}", cited(Kind::Prose, text));
    }
    // A diagram is no terminal.
    assert_eq!(cited(Kind::Prose, "```\nlocal   (proxy/local.rs)\n```\n"), ["2 proxy/local.rs"]);
}

#[test]
fn anchors_are_those_of_github() {
    let document = "# The log\n## What's `new`, and why?\n```\n# no heading\n```\n## The log\n#nor this\n";
    let found = headings(document);
    assert_eq!(found, ["The log", "What's new, and why?", "The log"]);
    assert_eq!(Vec::from_iter(anchors(&found)), ["the-log", "the-log-1", "whats-new-and-why"]);
}

#[test]
fn missing_files_and_headings_are_reported() {
    let mut tree = Tree::default();
    tree.add("README.md", "# Top\n");
    tree.add("docs/a.md", "# A\n## Part one\n");
    tree.add("src/plan/acks.rs", "");
    tree.add("src/plan/reads.rs", "");
    let judge = |file: &str, text: &str| -> Vec<String> {
        let all = passages(Kind::Prose, text);
        all.iter().flat_map(citations).filter_map(|c| tree.judge(file, &c)).collect()
    };
    let good = "docs/a.md, \"Part one\"; [x](docs/a.md#part-one) [t](#top) plan/acks.rs `src/plan` reads.rs README.md";
    assert!(judge("README.md", good).is_empty(), "{:?}", judge("README.md", good));
    // Relative to the file that cites, and to folders above it.
    assert!(judge("docs/a.md", "[x](../README.md#top) [y](a.md#a) src/plan/acks.rs").is_empty());
    assert!(judge("src/plan/reads.rs", "plan/acks.rs, docs/a.md").is_empty());
    let bad = "serving.md; docs/a.md, \"Part two\"; [x](docs/a.md#part-two) [y](../b.md) [t](#bottom) plan/none.rs `src/none` none.rs";
    assert_eq!(
        judge("README.md", bad),
        [
            "serving.md does not exist",
            "docs/a.md has no heading \"Part two\"",
            "docs/a.md has no heading #part-two",
            "../b.md does not exist",
            "README.md has no heading #bottom",
            "plan/none.rs does not exist",
            "src/none does not exist",
            "none.rs does not exist",
        ]
    );
}
