//! Small drawings: lines of connections, strips of health, bars of shares. Each says in words what it shows.

use maud::{Markup, html};

use crate::web::samples::{EVERY, Health, KEPT, Sample};

/// Connections in the last minutes, as a line from nothing to the most.
pub fn connections(samples: &[Sample]) -> Markup {
    let most = samples.iter().map(|sample| sample.active).max().unwrap_or(0);
    let least = samples.iter().map(|sample| sample.active).min().unwrap_or(0);
    let said = match samples {
        [] | [_] => "Connections: not observed for long enough yet".to_owned(),
        _ => format!("Connections in the last {}: {least} to {most}", span(samples.len())),
    };
    // The newest is at the right edge; 118 and 22 leave room for half of the line's width.
    let x = |index: usize| 1.0 + 118.0 * (KEPT - samples.len() + index) as f64 / (KEPT - 1) as f64;
    let y = |active: u64| 23.0 - 22.0 * active as f64 / most.max(1) as f64;
    let points: Vec<String> = (samples.iter().enumerate())
        .map(|(index, sample)| format!("{:.1},{:.1}", x(index), y(sample.active)))
        .collect();
    html! {
        svg.line viewBox="0 0 120 24" width="120" height="24" role="img" aria-label=(said) {
            title { (said) }
            line.axis x1="0" y1="23.5" x2="120" y2="23.5" {}
            polyline points=(points.join(" ")) {}
        }
    }
}

/// How a backend was in the last minutes: up fills the strip, down leaves it nearly empty.
pub fn health(samples: &[Sample]) -> Markup {
    let said = match samples {
        [] => "Health: not observed yet".to_owned(),
        _ => {
            let kinds = [Health::Up, Health::Out, Health::Unknown, Health::Down];
            let share = |kind: Health| samples.iter().filter(|sample| sample.health == kind).count();
            let shares: Vec<String> = (kinds.into_iter())
                .map(|kind| (kind, share(kind)))
                .filter(|(_, count)| *count > 0)
                .map(|(kind, count)| format!("{} {} %", kind.as_str(), count * 100 / samples.len()))
                .collect();
            format!("Health in the last {}: {}", span(samples.len()), shares.join(", "))
        }
    };
    html! {
        svg.strip viewBox="0 0 120 12" width="120" height="12" role="img" aria-label=(said) {
            title { (said) }
            rect.empty x="0" y="0" width="120" height="12" {}
            @for (start, length, health) in runs(samples) {
                @let (top, height) = tall(health);
                @let left = 2 * (KEPT - samples.len() + start);
                rect.(health.as_str()) x=(left) y=(top) width=(2 * length) height=(height) {}
            }
        }
    }
}

/// Where and how tall a health is drawn: not by colour alone.
const fn tall(health: Health) -> (u8, u8) {
    match health {
        Health::Up => (0, 12),
        Health::Out => (4, 8),
        Health::Unknown => (6, 6),
        Health::Down => (9, 3),
    }
}

/// Samples of the same health in a row: where they begin, how many, which.
fn runs(samples: &[Sample]) -> Vec<(usize, usize, Health)> {
    let mut runs: Vec<(usize, usize, Health)> = Vec::new();
    for (index, sample) in samples.iter().enumerate() {
        match runs.last_mut() {
            Some((_, length, health)) if *health == sample.health => *length += 1,
            _ => runs.push((index, 1, sample.health)),
        }
    }
    runs
}

/// What share of the connections a backend has, with a mark at what would be fair.
pub fn share(of_connections: f64, fair: f64) -> Markup {
    let width = |share: f64| format!("{:.1}", 100.0 * share.clamp(0.0, 1.0));
    let said = format!(
        "{} of the connections; its fair share is {}",
        super::percent(of_connections),
        super::percent(fair)
    );
    html! {
        svg.share viewBox="0 0 100 12" width="100" height="12" role="img" aria-label=(said) {
            title { (said) }
            rect.empty x="0" y="2" width="100" height="8" {}
            rect.full x="0" y="2" width=(width(of_connections)) height="8" {}
            line.fair x1=(width(fair)) y1="0" x2=(width(fair)) y2="12" {}
        }
    }
}

/// How long so many samples are.
fn span(samples: usize) -> String {
    let seconds = EVERY.as_secs() * samples as u64;
    if seconds >= 120 { format!("{} minutes", seconds / 60) } else { format!("{seconds} seconds") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(pairs: &[(u64, Health)]) -> Vec<Sample> {
        pairs.iter().map(|(active, health)| Sample { active: *active, health: *health }).collect()
    }

    #[test]
    fn a_line_ends_at_the_right_edge_and_keeps_within_its_box() {
        let drawn =
            connections(&samples(&[(0, Health::Up), (50, Health::Up), (100, Health::Up)])).into_string();
        assert!(drawn.contains("points=\"115.0,23.0 117.0,12.0 119.0,1.0\""), "{drawn}");
        assert!(drawn.contains("Connections in the last 15 seconds: 0 to 100"), "{drawn}");
        let idle = connections(&samples(&[(0, Health::Up); 60])).into_string();
        assert!(idle.contains("points=\"1.0,23.0 ") && idle.contains("last 5 minutes: 0 to 0"), "{idle}");
        assert!(connections(&[]).into_string().contains("not observed for long enough"));
    }

    #[test]
    fn a_strip_says_in_words_and_heights_what_it_shows() {
        let drawn =
            health(&samples(&[(0, Health::Up), (0, Health::Up), (0, Health::Down), (0, Health::Out)]));
        let drawn = drawn.into_string();
        assert!(drawn.contains("last 20 seconds: up 50 %, out 25 %, down 25 %"), "{drawn}");
        assert!(drawn.contains(r#"<rect class="up" x="112" y="0" width="4" height="12">"#), "{drawn}");
        assert!(drawn.contains(r#"<rect class="down" x="116" y="9" width="2" height="3">"#), "{drawn}");
        assert!(health(&[]).into_string().contains("not observed yet"));
    }

    #[test]
    fn shares_stay_within_their_bar() {
        let drawn = share(1.7, -0.2).into_string();
        assert!(drawn.contains(r#"width="100.0" height="8""#) && drawn.contains(r#"x1="0.0""#), "{drawn}");
        assert!(!share(f64::NAN, 0.0).into_string().contains("inf"));
    }
}
