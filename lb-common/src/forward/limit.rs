//! Who may open connections, and how many.

use super::Family;
use crate::{
    layout::{AllowedKey, SERVICE_HAS_ALLOW_LIST, ServiceEntry, SourceEntry, SourceKey},
    tables::Tables,
    wire::{Be32, Be128},
};

/// One connection, in the unit of `SourceEntry::tokens`.
const CONNECTION: u64 = 1_000_000;
/// No bucket is filled for longer than that: long enough for each, and the product with any rate stays in 64 bits.
const LONGEST_FILL_NS: u64 = 1_000_000_000_000;

/// Whether the service's list lets this source in.
#[inline(always)]
pub fn is_allowed<T: Tables>(tables: &T, service: &ServiceEntry, source: Be128) -> bool {
    service.flags & SERVICE_HAS_ALLOW_LIST == 0
        || tables.is_allowed(&AllowedKey { service: Be32::new(service.index), source })
}

/// Takes a token from the source's bucket. False where it is empty.
#[inline(always)]
pub fn admit<A: Family, T: Tables>(tables: &T, service: &ServiceEntry, source: Be128) -> bool {
    if service.source_rate == 0 {
        return true;
    }
    let full = u64::from(service.source_burst) * CONNECTION;
    let now = tables.monotonic_ns();
    let key = SourceKey { source: bucket_of::<A>(source), service: service.index, _pad: 0 };
    let Some(slot) = tables.source(&key) else {
        tables
            .remember_source(&key, &SourceEntry { filled_ns: now, tokens: full.saturating_sub(CONNECTION) });
        return true;
    };
    let mut bucket = slot.read();
    let elapsed = now.saturating_sub(bucket.filled_ns);
    let elapsed = if elapsed > LONGEST_FILL_NS { LONGEST_FILL_NS } else { elapsed };
    // Millionths of a connection: rate / s = rate / 1,000 per microsecond-of-a-connection and nanosecond.
    bucket.tokens += elapsed * u64::from(service.source_rate) / 1_000;
    bucket.filled_ns = now;
    if bucket.tokens > full {
        bucket.tokens = full;
    }
    let admitted = bucket.tokens >= CONNECTION;
    if admitted {
        bucket.tokens -= CONNECTION;
    }
    slot.update(|entry| *entry = bucket);
    admitted
}

/// A source is an IPv4 address, or an IPv6 /64: the smallest that one host is given (RFC 6177 §2).
#[inline(always)]
fn bucket_of<A: Family>(source: Be128) -> Be128 {
    if A::IS_V6 { source.network64() } else { source }
}
