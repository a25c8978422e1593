//! What is wrong with a certificate, in an admin's words: which one, and which setting to look at. The library's own word
//! stays in parentheses, because that is what one searches for.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError, InvalidMessage};

use crate::protocol::Failure;

/// Where the settings of a server are.
#[derive(Debug)]
pub(crate) struct Site {
    /// `the cluster`
    pub(crate) who: &'static str,
    /// What says whose signature is trusted.
    pub(crate) authority: &'static str,
    /// What says where the server is.
    pub(crate) address: &'static str,
    /// What to do when the server does not like what we show to it.
    pub(crate) client: &'static str,
}

/// Why there is no connection that can be trusted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Flaw(rustls::Error);

impl Flaw {
    /// Looks for one in what led to an error.
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Option<Flaw> {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            let is_one = matches!(
                found,
                rustls::Error::InvalidCertificate(_)
                    | rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)
            ) || matches!(found, rustls::Error::AlertReceived(alert) if is_of_a_certificate(*alert));
            return is_one.then(|| Flaw(found.clone()));
        }
        // What it was made of is not what it names as its source.
        let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        match within {
            Some(within) => Flaw::of(within),
            None => error.source().and_then(Flaw::of),
        }
    }

    /// In words.
    pub(crate) fn told(&self, site: &Site) -> Failure {
        let Site { who, authority, address, client } = site;
        match &self.0 {
            rustls::Error::InvalidCertificate(error) => certificate(error, site),
            rustls::Error::InvalidMessage(_) => Failure::new(
                format!("{who} does not speak TLS at its address (InvalidContentType)"),
                format!("look at the port and at `https` in {address}"),
            ),
            rustls::Error::AlertReceived(alert) => Failure::new(
                format!("{who} does not accept the certificate that it is shown, or wants one ({alert:?})"),
                *client,
            ),
            other => Failure::new(
                format!("{who} and rosterd do not agree on TLS ({other})"),
                format!("look at {address} and {authority}"),
            ),
        }
    }
}

fn is_of_a_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as A;
    matches!(
        alert,
        A::NoCertificate
            | A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied
            | A::CertificateRequired
    )
}

fn certificate(error: &CertificateError, site: &Site) -> Failure {
    use CertificateError as E;
    let Site { who, authority, address, .. } = site;
    let clock =
        "let the server have a new one; if it should be good, look at this machine's clock: timedatectl";
    match error {
        E::UnknownIssuer => Failure::new(
            format!("the certificate of {who} is signed by nobody who is trusted here (UnknownIssuer)"),
            format!(
                "put the CA that signed it into {authority}; where that says nothing, the CAs of this machine are \
                 trusted"
            ),
        ),
        E::BadSignature => Failure::new(
            format!("the certificate of {who} is signed by another CA of the right name (BadSignature)"),
            format!("the CA was made anew, it seems: put the one that signed it into {authority}"),
        ),
        E::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => Failure::new(
            format!("{who} shows the certificate of a CA as its own (CaUsedAsEndEntity)"),
            format!(
                "give the server a certificate with basicConstraints CA:FALSE that a CA has signed, and put that CA \
                 into {authority}"
            ),
        ),
        E::NotValidForName => Failure::new(
            format!("the certificate of {who} is not for the name by which it is asked (NotValidForName)"),
            format!("write a name that it is for into {address}, or give the server one for that name"),
        ),
        E::NotValidForNameContext { expected, presented } => name(site, &expected.to_str(), presented),
        E::Expired => Failure::new(format!("the certificate of {who} has expired (Expired)"), clock),
        E::ExpiredContext { not_after, .. } => Failure::new(
            format!("the certificate of {who} expired on {} (Expired)", day(not_after.as_secs())),
            clock,
        ),
        E::NotValidYet => {
            Failure::new(format!("the certificate of {who} is not valid yet (NotValidYet)"), clock)
        }
        E::NotValidYetContext { not_before, .. } => Failure::new(
            format!(
                "the certificate of {who} is not valid before {} (NotValidYet)",
                day(not_before.as_secs())
            ),
            clock,
        ),
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => Failure::new(
            format!("the certificate of {who} is not one for servers (InvalidPurpose)"),
            "give the server one with extendedKeyUsage serverAuth",
        ),
        other => Failure::new(
            format!("the certificate of {who} is not accepted ({other})"),
            format!(
                "look at it with `openssl s_client -showcerts -connect HOST:PORT`, and at {authority} and {address}"
            ),
        ),
    }
}

fn name(site: &Site, expected: &str, presented: &[String]) -> Failure {
    let Site { who, address, .. } = site;
    // `DnsName("kubernetes")`, `IpAddress(10.0.0.1)`
    let bare = |name: &String| {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
        inner.trim_matches('"').to_owned()
    };
    let only = match presented {
        [] => "and names nobody in subjectAltName".to_owned(),
        names => format!("only for {}", names.iter().map(bare).collect::<Vec<_>>().join(", ")),
    };
    let next = match presented {
        [] => format!("give the server a certificate with {expected} in subjectAltName"),
        _ => format!(
            "write a name that it is for into {address}, or give the server one that has {expected} too"
        ),
    };
    Failure::new(format!("the certificate of {who} is not for {expected}, {only} (NotValidForName)"), next)
}

fn day(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(|| "a day that cannot be".to_owned(), |time| time.strftime("%F").to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use rustls::OtherError;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;
    use crate::kubernetes;

    /// As the client hands it on: in the errors of three libraries.
    fn found(error: rustls::Error) -> Option<Flaw> {
        Flaw::of(&io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error)))
    }

    #[derive(Debug)]
    struct CaUsedAsEndEntity;

    impl std::fmt::Display for CaUsedAsEndEntity {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{self:?}")
        }
    }

    impl Error for CaUsedAsEndEntity {}

    #[test]
    fn each_flaw_is_told_with_the_setting_to_look_at() {
        use CertificateError as E;
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let name = |presented: &[&str]| E::NotValidForNameContext {
            expected: ServerName::try_from("api.example.org").unwrap(),
            presented: presented.iter().map(|name| (*name).to_owned()).collect(),
        };
        let certificates = [
            E::UnknownIssuer,
            E::BadSignature,
            E::Other(OtherError(Arc::new(CaUsedAsEndEntity))),
            name(&["DnsName(\"kubernetes\")", "IpAddress(10.0.0.1)"]),
            name(&[]),
            E::NotValidForName,
            E::ExpiredContext { time: at(2), not_after: at(1_700_000_000) },
            E::Expired,
            E::NotValidYetContext { time: at(2), not_before: at(1_900_000_000) },
            E::NotValidYet,
            E::InvalidPurpose,
            E::BadEncoding,
        ];
        let others = [
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType),
            rustls::Error::AlertReceived(AlertDescription::CertificateRequired),
        ];
        let all = certificates.into_iter().map(rustls::Error::InvalidCertificate).chain(others);
        let told: Vec<String> = all
            .map(|error| {
                let Failure { why, next } = found(error).unwrap().told(&kubernetes::SITE);
                format!("{why}\n  next: {next}")
            })
            .collect();
        insta::assert_snapshot!(told.join("\n"), @"
        the certificate of the cluster is signed by nobody who is trusted here (UnknownIssuer)
          next: put the CA that signed it into `certificate-authority` of the kubeconfig (in a pod, `ca.crt`); where that says nothing, the CAs of this machine are trusted
        the certificate of the cluster is signed by another CA of the right name (BadSignature)
          next: the CA was made anew, it seems: put the one that signed it into `certificate-authority` of the kubeconfig (in a pod, `ca.crt`)
        the cluster shows the certificate of a CA as its own (CaUsedAsEndEntity)
          next: give the server a certificate with basicConstraints CA:FALSE that a CA has signed, and put that CA into `certificate-authority` of the kubeconfig (in a pod, `ca.crt`)
        the certificate of the cluster is not for api.example.org, only for kubernetes, 10.0.0.1 (NotValidForName)
          next: write a name that it is for into `server` of the kubeconfig, or give the server one that has api.example.org too
        the certificate of the cluster is not for api.example.org, and names nobody in subjectAltName (NotValidForName)
          next: give the server a certificate with api.example.org in subjectAltName
        the certificate of the cluster is not for the name by which it is asked (NotValidForName)
          next: write a name that it is for into `server` of the kubeconfig, or give the server one for that name
        the certificate of the cluster expired on 2023-11-14 (Expired)
          next: let the server have a new one; if it should be good, look at this machine's clock: timedatectl
        the certificate of the cluster has expired (Expired)
          next: let the server have a new one; if it should be good, look at this machine's clock: timedatectl
        the certificate of the cluster is not valid before 2030-03-17 (NotValidYet)
          next: let the server have a new one; if it should be good, look at this machine's clock: timedatectl
        the certificate of the cluster is not valid yet (NotValidYet)
          next: let the server have a new one; if it should be good, look at this machine's clock: timedatectl
        the certificate of the cluster is not one for servers (InvalidPurpose)
          next: give the server one with extendedKeyUsage serverAuth
        the certificate of the cluster is not accepted (BadEncoding)
          next: look at it with `openssl s_client -showcerts -connect HOST:PORT`, and at `certificate-authority` of the kubeconfig (in a pod, `ca.crt`) and `server` of the kubeconfig
        the cluster does not speak TLS at its address (InvalidContentType)
          next: look at the port and at `https` in `server` of the kubeconfig
        the cluster does not accept the certificate that it is shown, or wants one (CertificateRequired)
          next: look at `client-certificate` of the kubeconfig, and by whom the cluster wants it signed
        ");
    }

    #[test]
    fn what_is_no_matter_of_certificates_is_none() {
        for other in [
            rustls::Error::HandshakeNotComplete,
            rustls::Error::AlertReceived(AlertDescription::InternalError),
            rustls::Error::InvalidMessage(InvalidMessage::InvalidCcs),
        ] {
            assert_eq!(found(other), None);
        }
        assert_eq!(Flaw::of(&io::Error::from(io::ErrorKind::ConnectionRefused)), None);
    }
}
