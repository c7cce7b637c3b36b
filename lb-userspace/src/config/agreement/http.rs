//! What `[http]` has to do with the services and with `[sync]`.

use std::net::{IpAddr, SocketAddr};

use crate::config::{
    reader::{At, Reader},
    schema::{ServiceDraft, SyncDraft},
};

/// Whether somebody else has what `[http]` listens on.
pub(super) fn check(
    reader: &Reader<'_>,
    services: &[ServiceDraft],
    sync: Option<&SyncDraft>,
    listen: &At<SocketAddr>,
) {
    let (address, port) = (listen.value.ip(), listen.value.port());
    let forwarded = services.iter().find_map(|service| {
        let (vip, its_port) = (service.vip.as_ref()?, service.port.as_ref()?);
        let clash = its_port.value == port && covers(address, vip.value.address);
        clash.then_some((vip, its_port))
    });
    if let Some((vip, its_port)) = forwarded {
        let message = format!(
            "`listen` has the port of the service on line {}: what comes for {} is forwarded, and never reaches the page",
            reader.line(&its_port.place),
            SocketAddr::new(vip.value.address, port)
        );
        let free = if port == 9188 { 9189 } else { 9188 };
        reader.error(
            &listen.place,
            message,
            format!("write: listen = \"{}\"", SocketAddr::new(address, free)),
        );
    }
    if let Some(sync) = sync.and_then(|sync| sync.listen.as_ref())
        && sync.value.port() == port
        && (covers(address, sync.value.ip()) || covers(sync.value.ip(), address))
    {
        let line = reader.line(&sync.place);
        let message = format!("`listen` is where [sync] listens, on line {line}");
        reader.error(&listen.place, message, "write: listen = an address with another port");
    }
}

/// Whether a socket on `listener` gets what is for `address`. One on `[::]` gets IPv4, too.
fn covers(listener: IpAddr, address: IpAddr) -> bool {
    match listener {
        IpAddr::V4(v4) if v4.is_unspecified() => address.is_ipv4(),
        IpAddr::V6(v6) if v6.is_unspecified() => true,
        _ => listener == address,
    }
}
