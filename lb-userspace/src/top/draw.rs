//! How `xvip top` looks. Pure: a state goes in, cells of a screen come out.

use std::time::SystemTime;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Clear, Paragraph},
};

use super::{
    rates::{Rate, bars},
    state::{Item, Message, Mode, State},
};
use crate::{
    cli::colour::{Colours, Tone},
    history::{Event, Severity},
    status::{
        BackendStatus, ServiceStatus, Status, VrrpStatus,
        table::{amount, short},
    },
};

#[cfg(test)]
mod tests;

/// How a screen is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Whether there are colours.
    pub colours: Colours,
    /// The wall clock.
    pub now: SystemTime,
}

impl Look {
    fn style(&self, tone: Tone) -> Style {
        let style = Style::new();
        let colour = |colour| match self.colours {
            Colours::On => style.fg(colour),
            Colours::Off => style,
        };
        match tone {
            Tone::Good => colour(Color::Green),
            Tone::Bad => colour(Color::Red).add_modifier(Modifier::BOLD),
            Tone::Warn => colour(Color::Yellow),
            Tone::Dim => style.add_modifier(Modifier::DIM),
            Tone::Strong => style.add_modifier(Modifier::BOLD),
        }
    }

    /// How long ago an RFC 3339 time was.
    fn ago(&self, time: &str) -> String {
        let then = humantime::parse_rfc3339(time).ok();
        then.map_or_else(|| "?".to_owned(), |then| short(self.now.duration_since(then).unwrap_or_default()))
    }
}

/// Draws all of it.
pub fn draw(frame: &mut Frame<'_>, state: &State, look: &Look) {
    let area = frame.area();
    let Some(status) = state.status() else {
        let text =
            state.failure().map_or_else(|| "asking the daemon…".to_owned(), |why| format!("error: {why}"));
        frame.render_widget(Paragraph::new(text).wrap(ratatui::widgets::Wrap { trim: true }), area);
        let [_, foot] = Layout::vertical([Constraint::Fill(1), Constraint::Length(1)]).areas(area);
        frame.render_widget(Paragraph::new("q quit").style(look.style(Tone::Dim)), foot);
        return;
    };
    let width = usize::from(area.width);
    let head: Vec<_> = head(state, status, look, width).into_iter().map(|line| fitted(line, width)).collect();
    let news: Vec<_> = news(state, status, look).into_iter().map(|line| fitted(line, width)).collect();
    // Backends matter more than news: these get a third of the screen at most.
    let news_height = if news.is_empty() { 0 } else { news.len().min(usize::from(area.height) / 3) + 1 };
    let [top, middle, bottom, foot] = Layout::vertical([
        Constraint::Length(head.len() as u16),
        Constraint::Fill(1),
        Constraint::Length(news_height as u16),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(head), top);
    draw_backends(frame, middle, state, status, look);
    if news_height > 0 {
        let block = Block::new().borders(Borders::TOP).title("what is wrong, and what happened");
        let room = news_height - 1;
        let lines: Vec<Line<'_>> = news.into_iter().take(room).collect();
        frame.render_widget(Paragraph::new(lines).block(block), bottom);
    }
    frame.render_widget(Paragraph::new(fitted(foot_line(state, look), width)), foot);
    if *state.mode() == Mode::Help {
        draw_help(frame, area);
    }
}

/// A line that has to end before its end says so.
fn fitted(mut line: Line<'_>, width: usize) -> Line<'_> {
    if line.width() <= width {
        return line;
    }
    let mut room = width.saturating_sub(1);
    let mut kept = Vec::new();
    for span in std::mem::take(&mut line.spans) {
        let wide = span.width();
        if wide <= room {
            room -= wide;
            kept.push(span);
            continue;
        }
        let is_within = |end: &usize| Span::raw(&span.content[..*end]).width() <= room;
        let ends = span.content.char_indices().map(|(at, _)| at);
        let end = ends.take_while(is_within).last().unwrap_or_default();
        let text = format!("{}…", span.content[..end].trim_end());
        kept.push(Span::styled(text, span.style));
        break;
    }
    line.spans = kept;
    line
}

/// Whose status this is, who owns the VIPs, and how much goes through.
fn head<'a>(state: &'a State, status: &'a Status, look: &Look, width: usize) -> Vec<Line<'a>> {
    let mut lines = vec![title(state, status, look)];
    for vrrp in &status.vrrp {
        let selected = state.selected() == Some(&Item::Instance(vrrp.name.clone()));
        lines.push(fill(router(vrrp, look), width, selected));
    }
    for vip in status.without_daemon.iter().flat_map(|without| &without.vips) {
        let (text, tone) = match (vip.present, vip.silenced) {
            (true, true) => ("on this node, which no longer answers for it", Tone::Bad),
            (true, false) => ("on this node, which answers for it", Tone::Warn),
            (false, _) => ("not on this node", Tone::Warn),
        };
        lines.push(Line::from(vec![format!("{} is ", vip.vip).into(), Span::styled(text, look.style(tone))]));
    }
    lines.push(totals(state, status, width));
    lines
}

fn title<'a>(state: &'a State, status: &'a Status, look: &Look) -> Line<'a> {
    let mut spans = vec![Span::styled(format!("xvip top  {}", status.node), look.style(Tone::Strong))];
    let bad = look.style(Tone::Bad);
    if let Some(why) = state.failure() {
        spans.push(Span::styled(format!("  NOT UP TO DATE: {why}"), bad));
    } else if let Some(without) = &status.without_daemon {
        let since = without.since.as_ref().map_or(String::new(), |since| format!(" for {}", look.ago(since)));
        spans.push(Span::styled(format!("  DAEMON DOWN{since}"), bad));
        let forwarding =
            if without.forwarding { ": XDP goes on forwarding" } else { ": nothing is forwarded" };
        spans.push(forwarding.into());
    } else {
        let uptime = short(std::time::Duration::from_secs(status.uptime_seconds));
        spans.push(format!("  xvip {}  up {uptime}", status.version).into());
        for interface in &status.interfaces {
            let tone = if interface.xdp_mode == "none" { look.style(Tone::Bad) } else { Style::new() };
            spans.push(Span::styled(format!("  {} XDP {}", interface.name, interface.xdp_mode), tone));
        }
    }
    Line::from(spans)
}

fn router<'a>(vrrp: &'a VrrpStatus, look: &Look) -> Vec<Span<'a>> {
    let tone = match vrrp.state.as_str() {
        "active" => look.style(Tone::Good).add_modifier(Modifier::BOLD),
        "backup" => Style::new(),
        "unknown" => look.style(Tone::Warn),
        _ => look.style(Tone::Bad),
    };
    let vips = vrrp.vips.join(", ");
    let owner = match (vrrp.state.as_str(), &vrrp.active_router) {
        ("active", _) | ("unknown", _) => vips,
        (_, Some(active)) => format!("{vips} is at {} (priority {})", active.address, active.priority),
        (_, None) => format!("{vips} has no known owner"),
    };
    let since = if vrrp.since.is_empty() { String::new() } else { format!(" {}", look.ago(&vrrp.since)) };
    let released = if vrrp.released { ", RELEASED" } else { "" };
    vec![
        format!("{} ", vrrp.name).into(),
        Span::styled(vrrp.state.to_uppercase(), tone),
        format!("{since}  {owner}  prio {}{released}  {}", vrrp.priority, vrrp.reason).into(),
    ]
}

fn totals<'a>(state: &State, status: &Status, width: usize) -> Line<'a> {
    let total = state.total();
    let flows = &status.flows;
    let text = format!(
        "{} connections, {} half-open | new {}/s | in {}/s | out {}/s ",
        flows.established,
        flows.half_open,
        rate(&total.opened),
        bytes(&total.bytes_in),
        bytes(&total.bytes_out)
    );
    let room = width.saturating_sub(text.chars().count()).min(120);
    let full = total.opened.largest(room);
    Line::from(format!("{text}{}", bars(&total.opened, room, full)))
}

/// New connections in a second.
fn rate(rate: &Rate) -> String {
    match rate.per_second() {
        0.0 => "0".to_owned(),
        few if few < 9.95 => format!("{few:.1}"),
        many => format!("{many:.0}"),
    }
}

/// Bytes in a second.
fn bytes(rate: &Rate) -> String {
    amount(rate.per_second() as u64)
}

/// A column of the backends: its heading, its width, and how soon it goes where there is no room.
struct Column {
    title: &'static str,
    width: usize,
    rank: u8,
    is_number: bool,
}

/// Index of the column with the state.
const STATE: usize = 2;

/// What each column is at least as wide as.
const COLUMNS: [Column; 12] = [
    Column { title: "backend", width: 8, rank: 0, is_number: false },
    Column { title: "address", width: 8, rank: 8, is_number: false },
    Column { title: "state", width: 6, rank: 0, is_number: false },
    Column { title: "for", width: 6, rank: 5, is_number: false },
    Column { title: "weight", width: 6, rank: 6, is_number: true },
    Column { title: "share", width: 6, rank: 2, is_number: true },
    Column { title: "active", width: 6, rank: 0, is_number: true },
    Column { title: "new/s", width: 6, rank: 0, is_number: true },
    Column { title: "in/s", width: 9, rank: 4, is_number: true },
    Column { title: "out/s", width: 9, rank: 4, is_number: true },
    Column { title: "reset", width: 6, rank: 7, is_number: true },
    Column { title: "reason", width: 10, rank: 9, is_number: false },
];

/// The picture of new connections is that wide, or it is not there.
const PICTURE: std::ops::RangeInclusive<usize> = 8..=60;

fn cells(
    state: &State,
    service: &ServiceStatus,
    backend: &BackendStatus,
    look: &Look,
) -> [String; COLUMNS.len()] {
    let unknown = Default::default();
    let rates = state.rates(&service.name, &backend.name).unwrap_or(&unknown);
    let told = backend.weight_override.as_ref().map_or(backend.weight, |other| other.weight);
    [
        backend.name.clone(),
        backend.address.clone(),
        match (&backend.admin, &backend.down) {
            (Some(admin), _) => format!("{} {}", backend.state, admin.state),
            (None, Some(down)) => format!("{} {down}", backend.state),
            (None, None) => backend.state.clone(),
        },
        if backend.since.is_empty() { String::new() } else { look.ago(&backend.since) },
        if backend.effective_weight == told {
            told.to_string()
        } else {
            format!("{}/{told}", backend.effective_weight)
        },
        format!("{:.0} %", backend.share * 100.0),
        backend.flows.active.to_string(),
        rate(&rates.opened),
        bytes(&rates.bytes_in),
        bytes(&rates.bytes_out),
        backend.flows.reset.to_string(),
        backend.reason.clone(),
    ]
}

fn tone(backend: &BackendStatus) -> Tone {
    match backend.state.as_str() {
        "down" => Tone::Bad,
        "up" if backend.admin.is_none() => Tone::Good,
        _ => Tone::Warn,
    }
}

/// A backend with what its columns say, or its service's own line.
type Row<'s> = (&'s ServiceStatus, Option<(&'s BackendStatus, [String; COLUMNS.len()])>);

/// The backends under their services, with the selected one in sight.
fn draw_backends(frame: &mut Frame<'_>, area: Rect, state: &State, status: &Status, look: &Look) {
    let width = usize::from(area.width);
    let mut rows: Vec<Row<'_>> = Vec::new();
    for service in &status.services {
        let shown = service.backends.iter().filter(|backend| state.is_shown(service, backend));
        let shown: Vec<_> =
            shown.map(|one| (service, Some((one, cells(state, service, one, look))))).collect();
        if !shown.is_empty() {
            rows.push((service, None));
            rows.extend(shown);
        }
    }
    let all = rows.iter().filter_map(|(_, row)| row.as_ref());
    let mut widths = COLUMNS.map(|column| column.width.max(column.title.len()));
    for (_, cells) in all {
        widths.iter_mut().zip(cells).for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
    }
    let kept = kept(&widths, width);
    let used: usize = kept.iter().map(|index| widths[*index] + 2).sum();
    let picture = Some(width.saturating_sub(used)).filter(|left| left >= PICTURE.start());
    let picture = picture.map_or(0, |left| left.min(*PICTURE.end()));

    let mut lines = Vec::new();
    let mut selected_line = 0;
    for (service, row) in &rows {
        let Some((backend, cells)) = row else {
            lines.push(fitted(service_line(service, look), width));
            continue;
        };
        let rates = state.rates(&service.name, &backend.name);
        let full = service.backends.iter().filter_map(|one| state.rates(&service.name, &one.name));
        let full = full.map(|rates| rates.opened.largest(picture)).fold(0.0, f64::max);
        let mut spans = Vec::new();
        for &index in &kept {
            let style = if index == STATE { look.style(tone(backend)) } else { Style::new() };
            spans.push(Span::styled(padded(&cells[index], widths[index], COLUMNS[index].is_number), style));
        }
        spans.push(rates.map_or(String::new(), |rates| bars(&rates.opened, picture, full)).into());
        let item = Item::Backend { service: service.name.clone(), backend: backend.name.clone() };
        let selected = state.selected() == Some(&item);
        if selected {
            selected_line = lines.len();
        }
        lines.push(fill(spans, width, selected));
    }
    let mut header: Vec<Span<'_>> = kept
        .iter()
        .map(|index| padded(COLUMNS[*index].title, widths[*index], COLUMNS[*index].is_number).into())
        .collect();
    if picture > 0 {
        header.push("new connections".chars().take(picture).collect::<String>().into());
    }
    let [head, body] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    frame.render_widget(Paragraph::new(Line::from(header).style(look.style(Tone::Strong))), head);
    if lines.is_empty() {
        lines.push(Line::from(format!(
            "no backend has {:?} in its name, address, state or service",
            state.filter()
        )));
    }
    // As little as it takes to see the selected one, and the service above the first one.
    let height = usize::from(body.height).max(1);
    let scroll = (selected_line + 1).saturating_sub(height);
    frame.render_widget(Paragraph::new(lines.split_off(scroll)), body);
}

/// The columns that there is room for. A picture that fits is worth more than the least important ones.
fn kept(widths: &[usize; COLUMNS.len()], room: usize) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..COLUMNS.len()).collect();
    let needed =
        |kept: &[usize]| kept.iter().map(|index| widths[*index] + 2).sum::<usize>() + PICTURE.start();
    while needed(&kept) > room {
        let last = kept.iter().enumerate().filter(|(_, index)| COLUMNS[**index].rank > 0);
        let Some((at, _)) = last.max_by_key(|(at, index)| (COLUMNS[**index].rank, *at)) else { break };
        kept.remove(at);
    }
    kept
}

fn padded(text: &str, width: usize, is_number: bool) -> String {
    if is_number { format!("{text:>width$}  ") } else { format!("{text:<width$}  ") }
}

fn service_line<'a>(service: &ServiceStatus, look: &Look) -> Line<'a> {
    let usable = format!("{} of {} usable", service.usable, service.backends.len());
    let tone = match service.usable as usize {
        0 => Tone::Bad,
        usable if usable < service.backends.len() => Tone::Warn,
        _ => Tone::Dim,
    };
    let ServiceStatus { name, vip, port, mode, balance, .. } = service;
    let at = if vip.contains(':') { format!("[{vip}]:{port}") } else { format!("{vip}:{port}") };
    Line::from(vec![
        Span::styled(format!("{name}  {at}  {mode}, {balance}  "), look.style(Tone::Strong)),
        Span::styled(usable, look.style(tone)),
    ])
}

/// A line; the selected one goes to the edge.
fn fill(mut spans: Vec<Span<'_>>, width: usize, selected: bool) -> Line<'_> {
    if !selected {
        return Line::from(spans);
    }
    let used: usize = spans.iter().map(|span| span.content.chars().count()).sum();
    spans.push(" ".repeat(width.saturating_sub(used)).into());
    Line::from(spans).style(Style::new().add_modifier(Modifier::REVERSED))
}

/// What is wrong, then what happened, the newest first.
fn news<'a>(state: &'a State, status: &'a Status, look: &Look) -> Vec<Line<'a>> {
    let bad = look.style(Tone::Bad);
    let problems = status.problems.iter();
    let reload = status.config.last_reload_error.iter();
    let mut lines: Vec<Line<'_>> =
        problems.map(|text| Line::from(vec![Span::styled("problem: ", bad), text.as_str().into()])).collect();
    lines.extend(reload.map(|text| {
        Line::from(vec![
            Span::styled("problem: ", bad),
            format!("the last reload changed nothing: {text}").into(),
        ])
    }));
    lines.extend(state.events().iter().rev().map(|event| event_line(event, look)));
    lines
}

/// The time of day, in UTC as everywhere, and what happened.
fn event_line<'a>(event: &Event, look: &Look) -> Line<'a> {
    let time = humantime::format_rfc3339_seconds(event.at).to_string();
    let time = time.get(11..19).unwrap_or_default().to_owned();
    let style = match event.severity {
        Severity::Info => Style::new(),
        Severity::Warn => look.style(Tone::Warn),
        Severity::Error => look.style(Tone::Bad),
    };
    Line::from(vec![Span::styled(time, look.style(Tone::Dim)), Span::styled(format!(" {event}"), style)])
}

fn foot_line<'a>(state: &'a State, look: &Look) -> Line<'a> {
    let strong = look.style(Tone::Strong);
    let ask = look.style(Tone::Warn).add_modifier(Modifier::BOLD);
    match state.mode() {
        Mode::Confirm { question, .. } => {
            Line::from(vec![Span::styled("y/n ", ask), Span::styled(format!("{question}?"), strong)])
        }
        Mode::Weight { service, backend, text } => Line::from(vec![
            Span::styled(format!("weight of {backend} (service {service}), 0 to 256 or default: "), strong),
            format!("{text}_").into(),
        ]),
        Mode::Filter => {
            Line::from(vec![Span::styled("filter: ", strong), format!("{}_", state.filter()).into()])
        }
        Mode::Watch | Mode::Help => match state.message() {
            Some(Message { text, well }) => {
                let tone = if *well { Tone::Good } else { Tone::Bad };
                Line::from(Span::styled(text.as_str(), look.style(tone)))
            }
            None => {
                let keys = "d drain  D disable  e enable  w weight  r release  a acquire  / filter  ? help";
                let filter = state.filter();
                let keys = if filter.is_empty() {
                    keys.to_owned()
                } else {
                    format!("filter {filter:?}, Esc ends it  {keys}")
                };
                Line::from(Span::styled(keys, look.style(Tone::Dim)))
            }
        },
    }
}

/// What the keys do.
const HELP: [&str; 15] = [
    "up, down, j, k   select a VRRP instance or a backend",
    "Home, End, g, G  the first, the last",
    "d                drain: no new connections",
    "D                disable: its connections are reset, too",
    "e                enable: end a drain or a disable",
    "w                another weight than the file's",
    "r                release: hand the VIP over",
    "a                acquire: end a release",
    "/                show only what has a text; Esc ends it",
    "? or h           this",
    "q, Ctrl-C        quit",
    "",
    "Every order is asked for again before it is given.",
    "new/s and the picture: new connections.",
    "in/s, out/s: bytes from and to clients.",
];

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let widest = HELP.iter().map(|line| line.len()).max().unwrap_or(0);
    let width = (widest as u16 + 4).min(area.width);
    let height = (HELP.len() as u16 + 2).min(area.height);
    let place =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    let lines: Vec<Line<'_>> = HELP.iter().map(|line| Line::from(format!(" {line}"))).collect();
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title("keys; any key leaves")), place);
}
