//! `xvip capture`: what XDP received and sent, as a file for Wireshark. tcpdump cannot see it: a frame that XDP drops or
//! sends never reaches the place where tcpdump listens.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use lb_common::trace::{HEADERS, WHOLE, Wanted};

use super::{
    command::failed,
    trace::{InterfaceNames, UntilArgs, watch},
};
use crate::{
    pcapng::{self, CapturedPacket, Direction},
    trace::{
        Depth,
        client::Client,
        record::{Record, words},
    },
};

/// The arguments of `xvip capture`.
#[derive(Clone, Debug, clap::Args)]
pub struct CaptureArgs {
    /// The file to write, in the pcapng format; `-` for standard output
    #[arg(long, short, value_name = "FILE")]
    pub output: PathBuf,
    /// Only packets from or to this client, before or after they are rewritten: IP, IP:PORT, [IPv6]:PORT or a network
    #[arg(long, value_name = "IP[:PORT]")]
    pub client: Option<Client>,
    /// Keep 192 bytes of each frame, rather than 2048
    #[arg(long)]
    pub headers: bool,
    /// What `trace` has, too
    #[command(flatten)]
    pub until: UntilArgs,
}

/// Writes packets until it is stopped. Exits with 1 where nothing can be captured.
pub fn run(args: &CaptureArgs) -> ExitCode {
    match write(args) {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

fn write(args: &CaptureArgs) -> anyhow::Result<ExitCode> {
    let config = match args.until.configuration() {
        Ok(config) => config,
        Err(code) => return Ok(code),
    };
    let path = args.output.display();
    let is_stdout = args.output == Path::new("-");
    let out: Box<dyn Write> = if is_stdout {
        Box::new(io::stdout().lock())
    } else {
        Box::new(File::create(&args.output).with_context(|| format!("{path}"))?)
    };
    let depth = if args.headers { Depth::Headers } else { Depth::Whole };
    let file =
        RefCell::new(CaptureFile::begin(BufWriter::new(out), depth).with_context(|| format!("{path}"))?);
    let wanted = args.client.map_or(Wanted::EVERYTHING, |client| client.wanted());
    let whose = args.client.map_or_else(|| "everything".to_owned(), |client| client.to_string());
    let what = format!("capturing {whose} to {path}");
    let seen = watch(
        config.as_ref(),
        wanted,
        depth,
        args.until.limits(),
        &what,
        |record, offset| file.borrow_mut().write(record, offset),
        || file.borrow_mut().out.flush(),
    )?;
    eprintln!("{} decisions captured", seen.decisions);
    Ok(ExitCode::SUCCESS)
}

/// A capture file that is being written.
struct CaptureFile<W> {
    out: W,
    snap_len: u32,
    /// Interface index -> number in the file.
    interfaces: BTreeMap<u32, u32>,
    names: InterfaceNames,
    packets: u64,
}

impl<W: Write> CaptureFile<W> {
    fn begin(mut out: W, depth: Depth) -> io::Result<Self> {
        out.write_all(&pcapng::section(concat!("xvip ", env!("CARGO_PKG_VERSION"))))?;
        out.flush()?;
        let snap_len = match depth {
            Depth::Headers => HEADERS,
            Depth::Whole => WHOLE,
        } as u32;
        Ok(Self { out, snap_len, interfaces: BTreeMap::new(), names: InterfaceNames::default(), packets: 0 })
    }

    /// The received frame, then what was sent in its place.
    fn write(&mut self, record: &Record<'_>, offset: Duration) -> io::Result<()> {
        let event = &record.event;
        let (verdict, reason, description) = words(record.verdict());
        let at_ns = offset.as_nanos() as u64 + event.at_ns;
        let interface = self.interface(event.ingress)?;
        let received = CapturedPacket {
            interface,
            at_ns,
            bytes: record.received,
            length: event.received_len,
            direction: Direction::Inbound,
            id: self.packets,
            action: event.action,
            comment: &format!("{verdict}: {reason}: {description}"),
        };
        self.out.write_all(&pcapng::packet(&received))?;
        if let Some(sent) = record.sent {
            let interface = self.interface(event.egress)?;
            let comment = format!("sent: {reason}");
            let sent = CapturedPacket {
                interface,
                bytes: sent,
                length: event.sent_len,
                direction: Direction::Outbound,
                comment: &comment,
                ..received
            };
            self.out.write_all(&pcapng::packet(&sent))?;
        }
        self.packets += 1;
        Ok(())
    }

    /// The number of an interface in the file; it is described before its first packet.
    fn interface(&mut self, index: u32) -> io::Result<u32> {
        if let Some(&number) = self.interfaces.get(&index) {
            return Ok(number);
        }
        let number = self.interfaces.len() as u32;
        self.out.write_all(&pcapng::interface(&self.names.name(index), self.snap_len))?;
        self.interfaces.insert(index, number);
        Ok(number)
    }
}
