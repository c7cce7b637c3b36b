//! A page of the manual, taken apart: blocks, code, headings, links, table cells.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// What is found on a page, and on which line.
#[derive(Debug)]
pub struct Found {
    /// The text.
    pub text: String,
    /// Its line, from 1 on.
    pub line: usize,
}

/// A fenced block.
#[derive(Debug)]
pub struct Block {
    /// What stands behind the fence: `toml`, `sh`, ...
    pub language: String,
    /// What is in it.
    pub text: String,
    /// The line of its fence.
    pub line: usize,
}

/// A page.
#[derive(Debug, Default)]
pub struct Page {
    /// Relative to the root of the tree.
    pub path: PathBuf,
    /// As it is in the file.
    pub text: String,
    /// Its fenced blocks.
    pub blocks: Vec<Block>,
    /// `code` in sentences and tables.
    pub code: Vec<Found>,
    /// What can be linked to, as GitHub makes it of the headings.
    pub anchors: Vec<String>,
    /// Where links lead.
    pub links: Vec<Found>,
    /// `code` in the first column of tables, header lines left out.
    pub first_column: Vec<Found>,
}

/// The root of the tree.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests are in a directory of the tree")
        .to_owned()
}

/// Reads one page; `path` is relative to the root.
pub fn read(path: &Path) -> Result<Page, Box<dyn Error>> {
    let text =
        fs::read_to_string(root().join(path)).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Page::of(path, text))
}

/// Every page for operators: those in `docs/`, and the README.
pub fn manual() -> Result<Vec<Page>, Box<dyn Error>> {
    let mut paths = vec![PathBuf::from("README.md")];
    for entry in fs::read_dir(root().join("docs"))? {
        let name = PathBuf::from("docs").join(entry?.file_name());
        if name.extension().is_some_and(|ending| ending == "md") {
            paths.push(name);
        }
    }
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

impl Page {
    /// Takes a text apart.
    pub fn of(path: &Path, text: String) -> Self {
        let mut page = Self { path: path.to_owned(), ..Self::default() };
        let line_of = |at: usize| 1 + text[..at].matches('\n').count();
        let mut heading: Option<String> = None;
        let mut block: Option<Block> = None;
        // Of a row that is not the header: how many cells have begun.
        let mut column: Option<usize> = None;
        for (event, range) in Parser::new_ext(&text, Options::ENABLE_TABLES).into_offset_iter() {
            match event {
                Event::Start(Tag::CodeBlock(kind)) => {
                    let language = match kind {
                        CodeBlockKind::Fenced(language) => language.to_string(),
                        CodeBlockKind::Indented => String::new(),
                    };
                    block = Some(Block { language, text: String::new(), line: line_of(range.start) });
                }
                Event::End(TagEnd::CodeBlock) => page.blocks.extend(block.take()),
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    let anchor = anchor(&heading.take().unwrap_or_default());
                    let repeated = page.anchors.iter().filter(|known| is_repetition(known, &anchor)).count();
                    page.anchors.push(if repeated == 0 { anchor } else { format!("{anchor}-{repeated}") });
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(Found { text: dest_url.to_string(), line: line_of(range.start) });
                }
                Event::Start(Tag::TableRow) => column = Some(0),
                Event::End(TagEnd::TableRow) => column = None,
                Event::Start(Tag::TableCell) => column = column.map(|count| count + 1),
                Event::Text(piece) => {
                    if let Some(block) = &mut block {
                        block.text.push_str(&piece);
                    } else if let Some(heading) = &mut heading {
                        heading.push_str(&piece);
                    }
                }
                Event::Code(piece) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&piece);
                    }
                    let found = || Found { text: piece.to_string(), line: line_of(range.start) };
                    if column == Some(1) {
                        page.first_column.push(found());
                    }
                    page.code.push(found());
                }
                _ => {}
            }
        }
        page.text = text;
        page
    }

    /// Where something is, for a message.
    pub fn at(&self, line: usize) -> String {
        format!("{}:{line}", self.path.display())
    }

    /// Whether a line is of a part that is made of the code.
    pub fn is_generated(&self, line: usize) -> bool {
        let lines = |range: &str| range.matches('\n').count();
        self.generated().unwrap_or_default().iter().any(|part| {
            let first = 1 + lines(&self.text[..part.from]);
            (first..=first + lines(&self.text[part.from..part.to])).contains(&line)
        })
    }

    /// The parts that are made of the code.
    ///
    /// # Errors
    /// A marker without its counterpart.
    pub fn generated(&self) -> Result<Vec<Generated<'_>>, String> {
        let mut parts = Vec::new();
        let mut rest = 0;
        while let Some(begin) = self.text[rest..].find(BEGIN).map(|at| rest + at) {
            let line = 1 + self.text[..begin].matches('\n').count();
            let wrong = |what: &str| format!("{}: {what}", self.at(line));
            let after = begin + BEGIN.len();
            let name_end =
                self.text[after..].find(" -->").map(|at| after + at).ok_or_else(|| wrong("no end"))?;
            let name = &self.text[after..name_end];
            let from = name_end + " -->".len();
            let end = format!("{END}{name} -->");
            let to =
                self.text[from..].find(&end).map(|at| from + at).ok_or_else(|| wrong("it is never ended"))?;
            if self.text[from..to].contains(BEGIN) {
                return Err(wrong("another one begins in it"));
            }
            parts.push(Generated { name, from, to });
            rest = to;
        }
        Ok(parts)
    }
}

const BEGIN: &str = "<!-- begin generated: ";
const END: &str = "<!-- end generated: ";

/// A part of a page that is made of the code.
#[derive(Debug)]
pub struct Generated<'p> {
    /// What it is called.
    pub name: &'p str,
    /// Where it begins and ends in the text of the page, markers left out.
    pub from: usize,
    /// See there.
    pub to: usize,
}

fn is_repetition(known: &str, anchor: &str) -> bool {
    known.strip_prefix(anchor).is_some_and(|rest| {
        rest.is_empty() || rest.strip_prefix('-').is_some_and(|number| number.parse::<u32>().is_ok())
    })
}

/// GitHub's name for a heading: lower case, blanks as hyphens, and of the rest only letters, digits, `-` and `_`.
pub fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}
