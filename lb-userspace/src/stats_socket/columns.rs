//! HAProxy 2.6's columns: the header of `show stat` as HAProxy 2.6.12 prints it, and what its typed form says of each.
//!
//! A column's letters are its origin, its nature and its scope (management.txt 9.2). The tests hold the tables against a real
//! HAProxy.

/// A column, or a line of `show info`; its position is that in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Column {
    /// Its name.
    pub(super) name: &'static str,
    /// Its three letters.
    pub(super) tags: &'static str,
}

const fn c(name: &'static str, tags: &'static str) -> Column {
    Column { name, tags }
}

/// The first line; behind the column `-` stands what HAProxy's modules count.
pub(super) const HEADER: &str = "\
    # pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,eresp,wretr,wredis,\
    status,weight,act,bck,chkfail,chkdown,lastchg,downtime,qlimit,pid,iid,sid,throttle,lbtot,\
    tracked,type,rate,rate_lim,rate_max,check_status,check_code,check_duration,hrsp_1xx,hrsp_2xx,\
    hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,hanafail,req_rate,req_rate_max,req_tot,cli_abrt,srv_abrt,\
    comp_in,comp_out,comp_byp,comp_rsp,lastsess,last_chk,last_agt,qtime,ctime,rtime,ttime,\
    agent_status,agent_code,agent_duration,check_desc,agent_desc,check_rise,check_fall,check_health,\
    agent_rise,agent_fall,agent_health,addr,cookie,mode,algo,conn_rate,conn_rate_max,conn_tot,\
    intercepted,dcon,dses,wrew,connect,reuse,cache_lookups,cache_hits,srv_icur,src_ilim,qtime_max,\
    ctime_max,rtime_max,ttime_max,eint,idle_conn_cur,safe_conn_cur,used_conn_cur,need_conn_est,\
    uweight,agg_server_status,agg_server_check_status,agg_check_status,-,ssl_sess,ssl_reused_sess,\
    ssl_failed_handshake,h2_headers_rcvd,h2_data_rcvd,h2_settings_rcvd,h2_rst_stream_rcvd,\
    h2_goaway_rcvd,h2_detected_conn_protocol_errors,h2_detected_strm_protocol_errors,\
    h2_rst_stream_resp,h2_goaway_resp,h2_open_connections,h2_backend_open_streams,\
    h2_total_connections,h2_backend_total_streams,h1_open_connections,h1_open_streams,\
    h1_total_connections,h1_total_streams,h1_bytes_in,h1_bytes_out,h1_spliced_bytes_in,\
    h1_spliced_bytes_out,";

/// `show stat`
#[rustfmt::skip]
pub(super) const STAT: &[Column] = &[
    c("pxname", "KNS"), c("svname", "KNS"), c("qcur", "MGP"), c("qmax", "MMP"), c("scur", "MGP"),
    c("smax", "MMP"), c("slim", "CLP"), c("stot", "MCP"), c("bin", "MCP"), c("bout", "MCP"),
    c("dreq", "MCP"), c("dresp", "MCP"), c("ereq", "MCP"), c("econ", "MCP"), c("eresp", "MCP"),
    c("wretr", "MCP"), c("wredis", "MCP"), c("status", "SGP"), c("weight", "MaP"), c("act", "SGP"),
    c("bck", "SGP"), c("chkfail", "MCP"), c("chkdown", "MCP"), c("lastchg", "MAP"), c("downtime", "MCP"),
    c("qlimit", "CLS"), c("pid", "KGP"), c("iid", "KGS"), c("sid", "KGS"), c("throttle", "MaP"),
    c("lbtot", "MCP"), c("tracked", "CNS"), c("type", "CGS"), c("rate", "MRP"), c("rate_lim", "CLP"),
    c("rate_max", "MMP"), c("check_status", "MOP"), c("check_code", "MOP"), c("check_duration", "MDP"),
    c("hrsp_1xx", "MGP"), c("hrsp_2xx", "MGP"), c("hrsp_3xx", "MGP"), c("hrsp_4xx", "MGP"),
    c("hrsp_5xx", "MGP"), c("hrsp_other", "MGP"), c("hanafail", "MGP"), c("req_rate", "MRP"),
    c("req_rate_max", "MMP"), c("req_tot", "MCP"), c("cli_abrt", "MCP"), c("srv_abrt", "MCP"),
    c("comp_in", "MCP"), c("comp_out", "MCP"), c("comp_byp", "MCP"), c("comp_rsp", "MCP"),
    c("lastsess", "MAP"), c("last_chk", "MOP"), c("last_agt", "MGP"), c("qtime", "MaP"), c("ctime", "MaP"),
    c("rtime", "MaP"), c("ttime", "MaP"), c("agent_status", "MGP"), c("agent_code", "MGP"),
    c("agent_duration", "MGP"), c("check_desc", "MOP"), c("agent_desc", "MGP"), c("check_rise", "CGS"),
    c("check_fall", "CGS"), c("check_health", "CGS"), c("agent_rise", "MGP"), c("agent_fall", "MGP"),
    c("agent_health", "MGP"), c("addr", "CGS"), c("cookie", "CNS"), c("mode", "CGS"), c("algo", "CGS"),
    c("conn_rate", "MRP"), c("conn_rate_max", "MMP"), c("conn_tot", "MCP"), c("intercepted", "MGP"),
    c("dcon", "MCP"), c("dses", "MCP"), c("wrew", "MCP"), c("connect", "MCP"), c("reuse", "MCP"),
    c("cache_lookups", "MGP"), c("cache_hits", "MGP"), c("srv_icur", "MGP"), c("src_ilim", "MGP"),
    c("qtime_max", "MMP"), c("ctime_max", "MMP"), c("rtime_max", "MMP"), c("ttime_max", "MMP"),
    c("eint", "MCP"), c("idle_conn_cur", "MGP"), c("safe_conn_cur", "MGP"), c("used_conn_cur", "MGP"),
    c("need_conn_est", "MGP"), c("uweight", "MaP"), c("agg_server_status", "MGP"),
    c("agg_server_check_status", "MGP"), c("agg_check_status", "MGP"),
];

/// `show info`
#[rustfmt::skip]
pub(super) const INFO: &[Column] = &[
    c("Name", "POS"), c("Version", "POS"), c("Release_date", "POS"), c("Nbthread", "CGS"),
    c("Nbproc", "CGS"), c("Process_num", "KGP"), c("Pid", "SGP"), c("Uptime", "MDP"),
    c("Uptime_sec", "MDP"), c("Memmax_MB", "CLP"), c("PoolAlloc_MB", "MGP"), c("PoolUsed_MB", "MGP"),
    c("PoolFailed", "MCP"), c("Ulimit-n", "CLP"), c("Maxsock", "CLP"), c("Maxconn", "CLP"),
    c("Hard_maxconn", "CLP"), c("CurrConns", "MGP"), c("CumConns", "MCP"), c("CumReq", "MCP"),
    c("MaxSslConns", "MMP"), c("CurrSslConns", "MGP"), c("CumSslConns", "MCP"), c("Maxpipes", "CLP"),
    c("PipesUsed", "MGP"), c("PipesFree", "MGP"), c("ConnRate", "MRP"), c("ConnRateLimit", "CLP"),
    c("MaxConnRate", "MMP"), c("SessRate", "MRP"), c("SessRateLimit", "CLP"), c("MaxSessRate", "MRP"),
    c("SslRate", "MRP"), c("SslRateLimit", "CLP"), c("MaxSslRate", "MMP"), c("SslFrontendKeyRate", "MGP"),
    c("SslFrontendMaxKeyRate", "MMP"), c("SslFrontendSessionReuse_pct", "MGP"),
    c("SslBackendKeyRate", "MRP"), c("SslBackendMaxKeyRate", "MMP"), c("SslCacheLookups", "MCP"),
    c("SslCacheMisses", "MCP"), c("CompressBpsIn", "MRP"), c("CompressBpsOut", "MRP"),
    c("CompressBpsRateLim", "CLP"), c("ZlibMemUsage", "MGP"), c("MaxZlibMemUsage", "CLP"),
    c("Tasks", "MGP"), c("Run_queue", "MGP"), c("Idle_pct", "MaP"), c("node", "COS"),
    c("description", "COS"), c("Stopping", "MGP"), c("Jobs", "MGP"), c("Unstoppable Jobs", "MGP"),
    c("Listeners", "MGP"),
];
