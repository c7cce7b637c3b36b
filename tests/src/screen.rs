//! What the live view shows, as text. Pure: a [`Snapshot`] in, lines out.

use std::time::Duration;

use crossterm::style::Color;

/// A piece of a line in one colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The text.
    pub text: String,
    /// Its colour; `None`: the terminal's own.
    pub color: Option<Color>,
}

/// One line.
pub type Line = Vec<Span>;

/// Everything there is to show.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// `VIP:port`.
    pub vip: String,
    /// Since the view began.
    pub uptime: Duration,
    /// The LB nodes.
    pub nodes: Vec<NodeRow>,
    /// The API servers.
    pub servers: Vec<ServerRow>,
    /// The request loop.
    pub requests: Requests,
    /// Watch streams: open, and how often one broke.
    pub watches: (usize, usize),
    /// What happened: when, and what. Oldest first.
    pub events: Vec<(Duration, String)>,
    /// What is being done right now.
    pub busy: Option<String>,
}

/// An LB node.
#[derive(Debug, Clone, Default)]
pub struct NodeRow {
    /// Its name.
    pub name: String,
    /// Whether its daemon runs.
    pub running: bool,
    /// The state that the daemon tells.
    pub vrrp: String,
    /// The priority that the daemon tells.
    pub priority: u32,
    /// Whether the VIP is on its interface.
    pub holds_vip: bool,
    /// Whether its cable is plugged in.
    pub plugged: bool,
    /// `native` or `generic`.
    pub xdp_mode: String,
    /// Backends as this node sees them: name, state, share of new connections (0 to 1).
    pub backends: Vec<(String, String, f64)>,
}

/// An API server.
#[derive(Debug, Clone, Default)]
pub struct ServerRow {
    /// Its name.
    pub name: String,
    /// Whether its process runs.
    pub running: bool,
    /// Whether its `/readyz` works.
    pub ready: bool,
    /// Whether its cable is plugged in.
    pub plugged: bool,
    /// Requests that it answered per second, of late.
    pub rate: f64,
    /// Its share of all answers, of late (0 to 1).
    pub share: f64,
}

/// The request loop.
#[derive(Debug, Clone, Default)]
pub struct Requests {
    /// Answers per second, of late.
    pub rate: f64,
    /// Failures, of late.
    pub failed: usize,
    /// Half of the answers took less than this.
    pub median: Option<Duration>,
    /// Since the last answer.
    pub silent_for: Duration,
    /// The longest time without an answer, of late.
    pub longest_gap: Duration,
    /// The longest since the view began.
    pub longest_ever: Duration,
    /// The last failure: how long ago, and why.
    pub last_failure: Option<(Duration, String)>,
}

/// What the keys do, on a line of 80. Each key mends what it has broken.
pub const HELP: &str = "1 2 kill LB  c cut lb1  b black-hole  r fail /readyz  h hand over  q quit";

const GOOD: Option<Color> = Some(Color::Green);
const BAD: Option<Color> = Some(Color::Red);
const DIM: Option<Color> = Some(Color::DarkGrey);

/// The lines of a screen of this size, none wider and not more than it has room for. The newest events fill what
/// is left.
#[must_use]
pub fn lines(snapshot: &Snapshot, width: usize, height: usize) -> Vec<Line> {
    let mut lines = vec![title(snapshot, width), vec![]];
    lines.push(head(
        "  NODE  DAEMON   VRRP        PRIO  VIP  CABLE  XDP      BACKENDS (share of new connections)",
    ));
    lines.extend(snapshot.nodes.iter().map(node));
    lines.push(vec![]);
    lines.push(head("  SERVER   PROCESS  /READYZ  CABLE    ANSWERS/S"));
    lines.extend(snapshot.servers.iter().map(server));
    lines.push(vec![]);
    lines.extend(requests(snapshot));
    lines.push(vec![]);
    lines.push(head("  EVENTS"));
    let room = height.saturating_sub(lines.len() + 2);
    let first = snapshot.events.len().saturating_sub(room);
    for (at, what) in &snapshot.events[first..] {
        lines.push(vec![span(format!("  {}  {what}", clock(*at)), None)]);
    }
    lines.truncate(height.saturating_sub(2));
    lines.push(vec![]);
    lines.push(match &snapshot.busy {
        Some(what) => vec![span(format!("  {what} ..."), Some(Color::Yellow))],
        None => head(&format!("  {HELP}")),
    });
    lines.truncate(height);
    lines.into_iter().map(|line| clip(line, width)).collect()
}

fn title(snapshot: &Snapshot, width: usize) -> Line {
    let left = format!("  xvip lab   VIP {}", snapshot.vip);
    let right = clock(snapshot.uptime);
    let gap = width.saturating_sub(left.len() + right.len() + 2);
    vec![span(left, Some(Color::Cyan)), span(format!("{:gap$}{right}", ""), DIM)]
}

fn node(row: &NodeRow) -> Line {
    let mut line = vec![span(format!("  {:<6}", row.name), None)];
    line.push(word(9, if row.running { "running" } else { "stopped" }, row.running));
    let told = |text: &str| if row.running && !text.is_empty() { text.to_owned() } else { "-".to_owned() };
    let color = if row.vrrp == "active" && row.running { GOOD } else { None };
    line.push(span(format!("{:<12}", told(&row.vrrp)), color));
    line.push(span(format!("{:<6}", told(&row.priority.to_string())), None));
    line.push(span(
        format!("{:<5}", if row.holds_vip { "yes" } else { "no" }),
        if row.holds_vip { GOOD } else { None },
    ));
    line.push(word(7, if row.plugged { "up" } else { "cut" }, row.plugged));
    line.push(span(format!("{:<9}", told(&row.xdp_mode)), None));
    for (name, state, share) in row.backends.iter().filter(|_| row.running) {
        line.push(span(format!("{name} "), None));
        line.push(word(5, state, state == "up"));
        line.push(span(format!("{:>3.0} %   ", share * 100.0), None));
    }
    line
}

fn server(row: &ServerRow) -> Line {
    let bar = "#".repeat((row.share * 40.0).round().clamp(0.0, 40.0) as usize);
    vec![
        span(format!("  {:<9}", row.name), None),
        word(9, if row.running { "running" } else { "killed" }, row.running),
        word(9, if row.ready { "ok" } else { "fails" }, row.ready),
        word(9, if row.plugged { "up" } else { "hole" }, row.plugged),
        span(format!("{:>9.1}  {:>3.0} %  ", row.rate, row.share * 100.0), None),
        span(bar, Some(Color::Cyan)),
    ]
}

fn requests(snapshot: &Snapshot) -> Vec<Line> {
    let r = &snapshot.requests;
    let gone = r.silent_for >= Duration::from_millis(500);
    let median = r.median.map_or("-".to_owned(), |median| format!("{:.1} ms", median.as_secs_f64() * 1e3));
    let mut first = vec![
        span(format!("  requests   {:>6.1}/s answered, median {median}, ", r.rate), None),
        span(format!("{} failed", r.failed), if r.failed > 0 { BAD } else { None }),
    ];
    if gone {
        first.push(span(format!("   NO ANSWER FOR {} ms", r.silent_for.as_millis()), BAD));
    }
    let gaps = format!(
        "  outage     longest without an answer: {} ms of late, {} ms since the start",
        r.longest_gap.as_millis(),
        r.longest_ever.as_millis()
    );
    let failure = match &r.last_failure {
        Some((ago, why)) => format!("  failure    {} s ago: {why}", ago.as_secs()),
        None => "  failure    none yet".to_owned(),
    };
    let (open, broken) = snapshot.watches;
    let watches = format!("  watches    {open} streams deliver, broken {broken} times");
    vec![first, vec![span(gaps, None)], vec![span(failure, None)], vec![span(watches, None)]]
}

fn head(text: &str) -> Line {
    vec![span(text.to_owned(), DIM)]
}

fn span(text: String, color: Option<Color>) -> Span {
    Span { text, color }
}

fn word(width: usize, text: &str, good: bool) -> Span {
    span(format!("{text:<width$}"), if good { GOOD } else { BAD })
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Cuts a line to the width; error texts may have line breaks, which would tear the screen.
fn clip(line: Line, width: usize) -> Line {
    let mut room = width;
    let mut clipped = Vec::new();
    for Span { text, color } in line {
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(room).collect();
        room -= text.chars().count();
        clipped.push(Span { text, color });
    }
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        let node = |name: &str, active: bool| NodeRow {
            name: name.to_owned(),
            running: true,
            vrrp: if active { "active" } else { "backup" }.to_owned(),
            priority: 100,
            holds_vip: active,
            plugged: true,
            xdp_mode: "native".to_owned(),
            backends: vec![("master1".to_owned(), "up".to_owned(), 1.0)],
        };
        Snapshot {
            vip: "172.16.0.10:6443".to_owned(),
            uptime: Duration::from_secs(3_723),
            nodes: vec![node("lb1", true), node("lb2", false)],
            servers: vec![ServerRow { name: "master1".to_owned(), share: 1.0, ..ServerRow::default() }],
            events: (0..50).map(|n| (Duration::from_secs(n), format!("event {n}"))).collect(),
            ..Snapshot::default()
        }
    }

    fn plain(lines: &[Line]) -> Vec<String> {
        lines.iter().map(|line| line.iter().map(|span| span.text.as_str()).collect()).collect()
    }

    #[test]
    fn fits_every_screen_and_keeps_the_help_and_the_newest_event() {
        for (width, height) in [(80, 24), (200, 60), (20, 5), (1, 1), (0, 0)] {
            let lines = plain(&lines(&snapshot(), width, height));
            assert!(lines.len() <= height, "{} lines on {width}x{height}", lines.len());
            assert!(lines.iter().all(|line| line.chars().count() <= width));
        }
        let lines = plain(&lines(&snapshot(), 80, 24));
        assert!(lines.last().is_some_and(|line| line.contains("q quit")), "{lines:#?}");
        assert!(lines.iter().any(|line| line.contains("event 49")), "{lines:#?}");
    }

    #[test]
    fn columns_stand_under_their_heads() {
        let lines = plain(&lines(&snapshot(), 120, 40));
        let column = |head: &str, text: &str, row: &str| {
            let heads = lines.iter().find(|line| line.contains(head)).unwrap();
            let row = lines.iter().find(|line| line.starts_with(row)).unwrap();
            assert_eq!(row.find(text), heads.find(head), "{head}\n{heads}\n{row}");
        };
        column("VRRP", "active", "  lb1");
        column("PRIO", "100", "  lb1");
        column("VIP  CABLE", "yes", "  lb1");
        column("BACKENDS", "master1", "  lb1");
        column("/READYZ", "fails", "  master1");
        assert!(lines[0].ends_with("01:02:03"), "{}", lines[0]);
    }

    #[test]
    fn a_stopped_node_shows_nothing_that_it_said_before() {
        let mut snapshot = snapshot();
        snapshot.nodes[0].running = false;
        let lines = plain(&lines(&snapshot, 120, 40));
        let row = lines.iter().find(|line| line.starts_with("  lb1")).unwrap();
        assert!(row.contains("stopped") && !row.contains("active") && !row.contains("master1"), "{row}");
        assert!(row.contains("yes"), "the address is still there, though: {row}");
    }

    #[test]
    fn control_characters_cannot_tear_the_screen() {
        let mut snapshot = snapshot();
        snapshot.events.push((Duration::ZERO, "a\nb\u{1b}[2Jc".to_owned()));
        assert!(plain(&lines(&snapshot, 120, 40)).iter().all(|line| !line.contains(char::is_control)));
    }
}
