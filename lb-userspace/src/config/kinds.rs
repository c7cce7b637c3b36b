//! The kinds of values in the file: how each is read, and how to say what it should have been.

use std::{
    fmt::Display,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use toml::{Spanned, de::DeValue};

use super::{
    model::{Prefix, SIZE_UNITS, Vip, duration_text, size_text},
    nearest::nearest,
    reader::{Kind, Wrong, a, quoted},
};

/// `true` or `false`.
pub(super) struct Flag;

impl Kind for Flag {
    type Value = bool;

    fn read(&self, value: &Spanned<DeValue<'_>>) -> Result<bool, Vec<Wrong>> {
        let wrong =
            || Wrong::new(format!("must be true or false without quotes, not {}", a(value.get_ref())));
        match value.get_ref() {
            DeValue::Boolean(flag) => Ok(*flag),
            DeValue::String(text) if matches!(&**text, "true" | "false") => {
                Err(vec![wrong().suggest(&**text)])
            }
            _ => Err(vec![wrong()]),
        }
    }

    fn show(&self, value: &bool) -> String {
        value.to_string()
    }
}

/// A whole number in a range.
pub(super) struct Whole<T>(pub(super) RangeInclusive<T>);

impl<T: Copy + PartialOrd + Display + TryFrom<i128>> Whole<T> {
    fn in_range(&self, digits: &str, radix: u32) -> Option<T> {
        let number = i128::from_str_radix(&digits.replace('_', ""), radix).ok()?;
        T::try_from(number).ok().filter(|number| self.0.contains(number))
    }
}

impl<T: Copy + PartialOrd + Display + TryFrom<i128>> Kind for Whole<T> {
    type Value = T;

    fn read(&self, value: &Spanned<DeValue<'_>>) -> Result<T, Vec<Wrong>> {
        let range = format!("{} to {}", self.0.start(), self.0.end());
        let wrong = match value.get_ref() {
            DeValue::Integer(number) => match self.in_range(number.as_str(), number.radix()) {
                Some(number) => return Ok(number),
                None => Wrong::new(format!("must be {range}, not {number}")),
            },
            DeValue::String(text) => {
                let wrong = Wrong::new("must be a whole number without quotes, not a string");
                match self.in_range(text.trim(), 10) {
                    Some(number) => wrong.suggest(number.to_string()),
                    None => wrong,
                }
            }
            other => Wrong::new(format!("must be a whole number, {range}, not {}", a(other))),
        };
        Err(vec![wrong])
    }

    fn show(&self, value: &T) -> String {
        value.to_string()
    }
}

/// A length of time, like `"200ms"`: in a range, and a whole number of steps.
pub(super) struct Time {
    pub(super) range: RangeInclusive<Duration>,
    pub(super) step: Duration,
}

impl Time {
    /// Between `shortest` and `longest`, in whole milliseconds.
    pub(super) const fn between(shortest: Duration, longest: Duration) -> Self {
        Self { range: shortest..=longest, step: Duration::from_millis(1) }
    }

    /// The allowed value next to `wanted`.
    fn nearest(&self, wanted: Duration) -> Duration {
        let step = self.step.as_nanos().max(1);
        let steps = (wanted.as_nanos() + step / 2) / step;
        let rounded = u64::try_from(steps * step).map_or(Duration::MAX, Duration::from_nanos);
        rounded.clamp(*self.range.start(), *self.range.end())
    }
}

impl Kind for Time {
    type Value = Duration;

    fn read(&self, value: &Spanned<DeValue<'_>>) -> Result<Duration, Vec<Wrong>> {
        let wrong = match value.get_ref() {
            DeValue::String(text) => match duration(text) {
                Some(wanted) if self.nearest(wanted) == wanted => return Ok(wanted),
                Some(wanted) => {
                    let (shortest, longest) =
                        (duration_text(*self.range.start()), duration_text(*self.range.end()));
                    let steps = duration_text(self.step);
                    let range =
                        format!("must be {shortest} to {longest} in steps of {steps}, not {}", quoted(text));
                    Wrong::new(range).suggest(self.show(&self.nearest(wanted)))
                }
                None => {
                    let wrong = Wrong::new(format!(
                        "must be a number with a unit (ms, s, m, h), not {}",
                        quoted(text)
                    ));
                    match text.trim().parse::<u32>() {
                        Ok(seconds) => {
                            wrong.suggest(self.show(&self.nearest(Duration::from_secs(seconds.into()))))
                        }
                        Err(_) => wrong,
                    }
                }
            },
            DeValue::Integer(number) => {
                let wrong =
                    Wrong::new("must be a length of time in quotes, with its unit, not a bare number");
                match number.as_str().parse::<u32>() {
                    Ok(seconds) => {
                        wrong.suggest(self.show(&self.nearest(Duration::from_secs(seconds.into()))))
                    }
                    Err(_) => wrong,
                }
            }
            other => Wrong::new(format!("must be a length of time in quotes, not {}", a(other))),
        };
        Err(vec![wrong])
    }

    fn show(&self, value: &Duration) -> String {
        format!("\"{}\"", duration_text(*value))
    }
}

/// humantime's syntax, kept to what cannot overflow its sums: it panics on `"18446744073709551615s 1000000000ns"`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max().unwrap_or_default();
    if text.len() > 32 || digits > 9 {
        return None;
    }
    // A bare "0" is a duration to humantime; here every duration has its unit.
    text.chars().any(char::is_alphabetic).then(|| humantime::parse_duration(text.trim()).ok()).flatten()
}

/// A number of bytes with a unit, like `"100MB"`, in a range.
pub(super) struct Size(pub(super) RangeInclusive<u64>);

impl Kind for Size {
    type Value = u64;

    fn read(&self, value: &Spanned<DeValue<'_>>) -> Result<u64, Vec<Wrong>> {
        let range = || format!("{} to {}", size_text(*self.0.start()), size_text(*self.0.end()));
        let wrong = match value.get_ref() {
            DeValue::String(text) => match bytes(text) {
                Some(bytes) if self.0.contains(&bytes) => return Ok(bytes),
                Some(bytes) => Wrong::new(format!("must be {}, not {}", range(), quoted(text)))
                    .suggest(self.show(&bytes.clamp(*self.0.start(), *self.0.end()))),
                None => {
                    Wrong::new(format!("must be a number with a unit (KB, MB, GB), not {}", quoted(text)))
                }
            },
            other => Wrong::new(format!("must be a size in quotes, with its unit, not {}", a(other))),
        };
        Err(vec![wrong])
    }

    fn show(&self, value: &u64) -> String {
        format!("\"{}\"", size_text(*value))
    }
}

/// The bytes that a text means: digits, a unit, perhaps a blank between.
fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let (_, size) = SIZE_UNITS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.parse::<u64>().ok()?.checked_mul(size)
}

/// One of a few words.
pub(super) struct OneOf<T: 'static>(pub(super) &'static [(&'static str, T)]);

impl<T: Copy + PartialEq> Kind for OneOf<T> {
    type Value = T;

    fn read(&self, value: &Spanned<DeValue<'_>>) -> Result<T, Vec<Wrong>> {
        let words = || {
            let quoted: Vec<String> = self.0.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            quoted.join(" or ")
        };
        let DeValue::String(text) = value.get_ref() else {
            return Err(vec![Wrong::new(format!("must be {}, not {}", words(), a(value.get_ref())))]);
        };
        if let Some((_, value)) = self.0.iter().find(|(word, _)| word == text) {
            return Ok(*value);
        }
        let wrong = Wrong::new(format!("must be {}, not {}", words(), quoted(text)));
        let meant = nearest(text, self.0.iter().map(|(word, _)| *word));
        Err(vec![match meant {
            Some(word) => wrong.suggest(format!("\"{word}\"")),
            None => wrong,
        }])
    }

    fn show(&self, value: &T) -> String {
        let word = self.0.iter().find(|(_, known)| known == value).map_or("", |(word, _)| word);
        format!("\"{word}\"")
    }
}

/// A string that means something.
pub(super) struct Text<T> {
    /// What it is, with its article: "an address like ...".
    pub(super) what: &'static str,
    /// The meaning, or what is wrong.
    pub(super) parse: fn(&str) -> Result<T, Wrong>,
    /// How the file writes it, without quotes.
    pub(super) show: fn(&T) -> String,
}

impl<T> Kind for Text<T> {
    type Value = T;

    fn read(&self, value: &Spanned<DeValue<'_>>) -> Result<T, Vec<Wrong>> {
        match value.get_ref() {
            DeValue::String(text) => (self.parse)(text).map_err(|wrong| vec![wrong]),
            other => Err(vec![Wrong::new(format!("must be {} in quotes, not {}", self.what, a(other)))]),
        }
    }

    fn show(&self, value: &T) -> String {
        toml::Value::String((self.show)(value)).to_string()
    }
}

/// A list of values of one kind, each with its place.
pub(super) struct List<K>(pub(super) K);

impl<K: Kind> Kind for List<K> {
    type Value = Vec<Spanned<K::Value>>;

    fn read(&self, value: &Spanned<DeValue<'_>>) -> Result<Self::Value, Vec<Wrong>> {
        let DeValue::Array(items) = value.get_ref() else {
            let wrong = Wrong::new(format!("must be a list in brackets, not {}", a(value.get_ref())));
            return Err(vec![match self.0.read(value) {
                Ok(single) => wrong.suggest(format!("[{}]", self.0.show(&single))),
                Err(_) => wrong,
            }]);
        };
        let (mut values, mut wrongs) = (Vec::new(), Vec::new());
        for item in items {
            match self.0.read(item) {
                Ok(value) => values.push(Spanned::new(item.span(), value)),
                Err(wrong) => wrongs.extend(wrong.into_iter().map(|wrong| Wrong {
                    span: Some(wrong.span.unwrap_or_else(|| item.span())),
                    message: format!("has an item that {}", wrong.message),
                    // It would be the item alone, not the list.
                    suggestion: wrong.suggestion.map(|suggestion| format!("[..., {suggestion}, ...]")),
                })),
            }
        }
        if wrongs.is_empty() { Ok(values) } else { Err(wrongs) }
    }

    fn show(&self, value: &Self::Value) -> String {
        let items: Vec<String> = value.iter().map(|item| self.0.show(item.get_ref())).collect();
        format!("[{}]", items.join(", "))
    }
}

/// A name of something in this file, as people will type it on the command line.
pub(super) const NAME: Text<String> = Text {
    what: "a name",
    parse: |text| match text {
        "" => Err(Wrong::new("must not be empty")),
        _ if text.len() > 64 => Err(Wrong::new("must not be longer than 64 bytes")),
        _ if text.chars().any(|c| c.is_whitespace() || c.is_control()) => {
            let plain: String = text.chars().filter(|c| !c.is_control()).collect();
            let suggestion = plain.split_whitespace().collect::<Vec<_>>().join("-");
            Err(Wrong::new("must not contain blanks").suggest(format!("{suggestion:?}")))
        }
        _ => Ok(text.to_owned()),
    },
    show: String::clone,
};

/// The name of a network interface, as the kernel takes it (`dev_valid_name`, `IFNAMSIZ`).
pub(super) const INTERFACE: Text<String> = Text {
    what: "the name of a network interface",
    parse: |text| match text {
        "" => Err(Wrong::new("must not be empty")),
        _ if text.len() > 15 => Err(Wrong::new(format!(
            "must not be longer than 15 bytes, the kernel's limit; this has {}",
            text.len()
        ))),
        "." | ".." => Err(Wrong::new(format!("must be the name of a network interface, not {text:?}"))),
        _ if text.chars().any(|c| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control()) => {
            Err(Wrong::new("must be the name of a network interface, without '/', ':' or blanks"))
        }
        _ => Ok(text.to_owned()),
    },
    show: String::clone,
};

/// The absolute path of a file or directory; the daemon's working directory is nobody's concern.
pub(super) const PATH: Text<PathBuf> = Text {
    what: "a path",
    parse: |text| {
        if !text.starts_with('/') {
            return Err(Wrong::new(format!(
                "must be an absolute path, one that begins with '/', not {}",
                quoted(text)
            )));
        }
        if text.contains('\0') || text.split('/').any(|part| part == "..") {
            return Err(Wrong::new("must be a plain path, without '..'"));
        }
        Ok(PathBuf::from(text))
    },
    show: |path| path.display().to_string(),
};

/// A directory on a BPF file system.
pub(super) const PIN_PATH: Text<PathBuf> = Text {
    what: "a path",
    parse: |text| match text.strip_prefix("/sys/fs/bpf") {
        // bpffs answers EPERM to a name with a dot (kernel/bpf/inode.c, bpf_lookup).
        Some(below) if below.contains('.') => {
            Err(Wrong::new("must not contain '.': the BPF file system refuses such names")
                .suggest(format!("{:?}", text.replace('.', "-"))))
        }
        _ => (PATH.parse)(text),
    },
    show: PATH.show,
};

/// What stands behind the host in a URL, as it goes into a request line.
pub(super) const URL_PATH: Text<String> = Text {
    what: "a path",
    parse: |text| {
        if !text.starts_with('/') {
            let wrong = Wrong::new(format!("must begin with '/', not {}", quoted(text)));
            let plain =
                !text.is_empty() && text.len() < 60 && text.bytes().all(|byte| byte.is_ascii_graphic());
            return Err(if plain { wrong.suggest(format!("{:?}", format!("/{text}"))) } else { wrong });
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'#' | b'"' | b'<' | b'>')) {
            return Err(Wrong::new("must be a URL's path; blanks and other special characters as %20"));
        }
        Ok(text.to_owned())
    },
    show: String::clone,
};

/// A share, like `"10%"`.
pub(super) const PERCENT: Text<u8> = Text {
    what: "a percentage like \"10%\"",
    parse: |text| match text.strip_suffix('%').map(str::parse::<u8>) {
        Some(Ok(percent @ 0..=100)) => Ok(percent),
        _ => Err(Wrong::new(format!("must be a percentage from \"0%\" to \"100%\", not {}", quoted(text)))),
    },
    show: |percent| format!("{percent}%"),
};

/// A secret text that no complaint repeats.
pub(super) const ANY: Text<String> =
    Text { what: "a text", parse: |text| Ok(text.to_owned()), show: |_| "...".to_owned() };

/// An address for a later feature; only its form is checked.
pub(super) const LISTEN: Text<SocketAddr> = Text {
    what: "an address with a port",
    parse: |text| {
        text.parse().map_err(|_| Wrong::new(format!("must be an address with a port, not {}", quoted(text))))
    },
    show: SocketAddr::to_string,
};

/// The address of this node, another one, or a gateway; a link-local one is of the first interface's link.
pub(super) const NODE_ADDRESS: Text<IpAddr> = Text {
    what: "an address",
    parse: |text| {
        let address = plain_address(text)?;
        match not_a_host(address) {
            Some(why) if !is_link_local_v6(address) => {
                Err(Wrong::new(format!("must be the address of a host, but {address} is {why}")))
            }
            _ => Ok(address),
        }
    },
    show: IpAddr::to_string,
};

/// An address without port, prefix length or zone.
fn plain_address(text: &str) -> Result<IpAddr, Wrong> {
    text.parse().map_err(|_| {
        let wrong = Wrong::new(format!("must be an address, not {}", quoted(text)));
        let plain = text.split(['%', '/']).next().and_then(|address| address.parse::<IpAddr>().ok());
        match plain {
            Some(address) => wrong.suggest(format!("\"{address}\"")),
            None => wrong,
        }
    })
}

/// One word of a command.
pub(super) const WORD: Text<String> = Text {
    what: "a text",
    parse: |text| match text.contains('\0') {
        true => Err(Wrong::new("must not contain a NUL character")),
        false => Ok(text.to_owned()),
    },
    show: String::clone,
};

/// The address of a backend.
pub(super) const BACKEND_ADDRESS: Text<SocketAddr> = Text {
    what: "an address with a port",
    parse: |text| {
        let address: SocketAddr = text.parse().map_err(|_| no_address_with_port(text))?;
        let host = address.ip();
        if matches!(address, SocketAddr::V6(_)) && text.contains('%') {
            let wrong = Wrong::new("has a zone after '%', which no address of a backend needs");
            return Err(wrong.suggest(format!("\"{}\"", SocketAddr::new(host, address.port()))));
        }
        if let Some(why) = not_a_host(host) {
            let wrong = Wrong::new(format!("must be the address of a backend, but {host} is {why}"));
            return Err(match mapped(host) {
                Some(plain) => wrong.suggest(format!("\"{plain}:{}\"", address.port())),
                None => wrong,
            });
        }
        if address.port() == 0 {
            let wrong = Wrong::new("has port 0; ports are 1 to 65535");
            return Err(wrong.suggest(format!("\"{}\"", SocketAddr::new(host, 6443))));
        }
        Ok(address)
    },
    show: SocketAddr::to_string,
};

/// Why a text is no address with a port.
fn no_address_with_port(text: &str) -> Wrong {
    match text.trim_start_matches('[').trim_end_matches(']').parse() {
        Ok(IpAddr::V4(address)) => {
            return Wrong::new(format!("has no port: {address}")).suggest(format!("\"{address}:6443\""));
        }
        Ok(IpAddr::V6(address)) => {
            let message = format!("has no port, and an IPv6 address with one is in brackets: {address}");
            return Wrong::new(message).suggest(format!("\"[{address}]:6443\""));
        }
        Err(_) => {}
    }
    match text.rsplit_once(':').map(|(_, port)| port.parse::<u64>()) {
        Some(Ok(port)) if port > 65_535 => Wrong::new(format!("has port {port}; ports are 1 to 65535")),
        _ => Wrong::new(format!(
            "must be an address with a port, like \"172.16.0.4:6443\" or \"[2001:db8::4]:6443\" (names are not \
             resolved), not {}",
            quoted(text)
        )),
    }
}

/// A virtual address with its prefix length.
pub(super) const VIP: Text<Vip> = Text {
    what: "an address like \"172.16.0.10/24\" or \"2001:db8::10/64\"",
    parse: |text| {
        let (address, prefix_len) = address_and_length(text, 1)?;
        let why = not_a_host(address).or(not_in_network(address, prefix_len));
        let Some(why) = why else { return Ok(Vip { address, prefix_len }) };
        let wrong = Wrong::new(format!("must be an address that a host can have, but {text} is {why}"));
        Err(match mapped(address) {
            Some(plain) => wrong.suggest(format!("\"{plain}/32\"")),
            None if address.is_ipv6() => wrong.suggest("\"2001:db8::10/64\""),
            None => wrong,
        })
    },
    show: Vip::to_string,
};

/// A network; an address alone is the network of itself.
pub(super) const PREFIX: Text<Prefix> = Text {
    what: "a network like \"10.0.0.0/8\"",
    parse: |text| {
        let (address, len) = address_and_length(text, 0)?;
        if let (Some(plain), Some(len)) = (mapped(address), len.checked_sub(96)) {
            let network = Prefix { address: network(plain.into(), len), len };
            let message = format!("must be a network, but {text} is IPv4 in IPv6 form");
            return Err(Wrong::new(message).suggest(format!("\"{network}\"")));
        }
        let network = Prefix { address: network(address, len), len };
        if network.address != address {
            let message = format!("must be a network, but {text} has bits set behind its first {len}");
            return Err(Wrong::new(message).suggest(format!("\"{network}\"")));
        }
        Ok(network)
    },
    show: Prefix::to_string,
};

/// An address with a prefix length of at least `shortest`; without one, the longest, which is the address alone.
fn address_and_length(text: &str, shortest: u8) -> Result<(IpAddr, u8), Wrong> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return Err(Wrong::new(format!("must be an address and a prefix length, not {}", quoted(text))));
    };
    let longest = width(address);
    match length.map_or(Ok(longest), str::parse) {
        Ok(length) if (shortest..=longest).contains(&length) => Ok((address, length)),
        _ => {
            let length = quoted(length.unwrap_or_default());
            let message = format!("must have a prefix length from {shortest} to {longest}, not {length}");
            Err(Wrong::new(message).suggest(format!("\"{address}/{longest}\"")))
        }
    }
}

const fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The bits behind the first `length`, all set.
fn host_bits(address: IpAddr, length: u8) -> u128 {
    let bits = width(address).saturating_sub(length);
    u128::MAX.checked_shr(u128::BITS - u32::from(bits)).unwrap_or(0)
}

/// The first address of the network that an address is in.
fn network(address: IpAddr, length: u8) -> IpAddr {
    let host_bits = host_bits(address, length);
    match address {
        // The host bits of an IPv4 address are the low 32.
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & !(host_bits as u32)).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !host_bits).into(),
    }
}

/// The IPv4 address that an IPv6 one is another form of (RFC 4291 §2.5.5.2).
fn mapped(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => address.to_ipv4_mapped(),
    }
}

/// Why no host on a network can have this address; none if one can.
fn not_a_host(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => not_a_host_v4(address),
        IpAddr::V6(address) => not_a_host_v6(address),
    }
}

/// Why no host on this network can have this address of it; none if one can.
fn not_in_network(address: IpAddr, prefix_len: u8) -> Option<&'static str> {
    let host_bits = host_bits(address, prefix_len);
    let host = bits(address) & host_bits;
    match address {
        // A /31 has no network or broadcast address (RFC 3021), a /32 neither.
        _ if host_bits <= 1 => None,
        IpAddr::V4(_) if host == 0 => Some("the network's own address"),
        IpAddr::V4(_) if host == host_bits => Some("the network's broadcast address"),
        // RFC 4291 §2.6.1; a /127 has none (RFC 6164).
        IpAddr::V6(_) if host == 0 => Some("the anycast address of the subnet's routers"),
        _ => None,
    }
}

/// RFC 6890, RFC 1122 §3.2.1.3.
fn not_a_host_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [0, 0, 0, 0] => Some("the unspecified address"),
        [0, ..] => Some("in 0.0.0.0/8, which is no host's"),
        [127, ..] => Some("a loopback address, which never leaves its host"),
        [224..=239, ..] => Some("a multicast address"),
        [255, 255, 255, 255] => Some("the broadcast address"),
        [240..=255, ..] => Some("in the reserved 240.0.0.0/4"),
        _ => None,
    }
}

/// fe80::/10 (RFC 4291 §2.4).
fn is_link_local_v6(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// RFC 4291 §2.4. An address of the link alone is not one: a route to it would need the link's name, too.
fn not_a_host_v6(address: Ipv6Addr) -> Option<&'static str> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("the unspecified address"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("a loopback address, which never leaves its host"),
        [0, 0, 0, 0, 0, 0xffff, _, _] => Some("an IPv4 address in IPv6 form"),
        [0xfe80..=0xfebf, ..] => Some("a link-local address, which no router forwards"),
        [0xff00..=0xffff, ..] => Some("a multicast address"),
        _ => None,
    }
}

/// Whether `node.interface` would be accepted.
pub(crate) fn is_interface(text: &str) -> bool {
    (INTERFACE.parse)(text).is_ok()
}

/// Whether `service.vip` would be accepted.
pub(crate) fn is_vip(vip: Vip) -> bool {
    (VIP.parse)(&vip.to_string()).is_ok()
}

/// Whether `service.backend.address` would be accepted.
pub(crate) fn is_backend_address(address: SocketAddr) -> bool {
    (BACKEND_ADDRESS.parse)(&address.to_string()).is_ok()
}

/// Whether `vrrp.unicast_source` and `vrrp.unicast_peers` would be accepted.
pub(crate) fn is_node_address(address: IpAddr) -> bool {
    (NODE_ADDRESS.parse)(&address.to_string()).is_ok()
}

/// Whether a path of a file would be accepted.
pub(crate) fn is_path(text: &str) -> bool {
    (PATH.parse)(text).is_ok()
}
