//! The raw cryptography that issuing cannot avoid, through the same library and with all cores busy, as under load.
//! Measured before and after each load: where the two differ much, the machine was not quiet.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair,
    KeyPair, UnparsedPublicKey,
};
use tokio::time::Instant;

use crate::plan::Plan;
use crate::usage;

/// About as long as the part of an X.509-SVID that is signed, in bytes.
const CERTIFICATE_BYTES: usize = 450;
/// About as long as the part of a CSR that is signed, in bytes.
const CSR_BYTES: usize = 160;
/// How many keys and signatures are verified by turns.
const KEYS: usize = 2048;
/// About as long as a JWT-SVID without its signature, in bytes.
const TOKEN_BYTES: usize = 260;

/// Keys and messages for the raw operations.
#[derive(Debug)]
pub struct Work {
    random: SystemRandom,
    signer: EcdsaKeyPair,
    token_signer: EcdsaKeyPair,
    /// As many different keys as the processor cannot learn by heart: no two CSRs are alike either.
    signed: Vec<(UnparsedPublicKey<Vec<u8>>, Vec<u8>)>,
    next: AtomicUsize,
}

impl Work {
    /// New keys.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn new() -> anyhow::Result<Self> {
        let failed = |_unspecified| anyhow!("the cryptographic library failed");
        let random = SystemRandom::new();
        let signer = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?;
        let one = |_| {
            let holder = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
            let signature = holder.sign(&random, &[7; CSR_BYTES])?;
            let public = holder.public_key().as_ref().to_vec();
            Ok((
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public),
                signature.as_ref().to_vec(),
            ))
        };
        let signed = (0..KEYS).map(one).collect::<Result<_, _>>().map_err(failed)?;
        Ok(Self {
            signed,
            next: AtomicUsize::new(0),
            token_signer: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?,
            signer,
            random,
        })
    }

    /// Signs as much as a certificate; false when the library fails.
    #[must_use]
    pub fn sign(&self) -> bool {
        self.signer.sign(&self.random, &[7; CERTIFICATE_BYTES]).is_ok()
    }

    /// Verifies the signature of as much as a CSR, each time of another key; false when the library fails.
    #[must_use]
    pub fn verify(&self) -> bool {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % KEYS;
        let signed = self.signed.get(turn);
        signed.is_some_and(|(key, signature)| key.verify(&[7; CSR_BYTES], signature).is_ok())
    }

    /// Signs as much as a token; false when the library fails.
    #[must_use]
    pub fn es256(&self) -> bool {
        self.token_signer.sign(&self.random, &[7; TOKEN_BYTES]).is_ok()
    }
}

/// What one operation costs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Processor time, in microseconds.
    pub processor_us: f64,
    /// How many all cores together do in a second.
    pub a_second: f64,
}

impl Cost {
    fn mean(self, other: Self) -> Self {
        Self {
            processor_us: f64::midpoint(self.processor_us, other.processor_us),
            a_second: f64::midpoint(self.a_second, other.a_second),
        }
    }
}

/// The cost of each raw operation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Raw {
    /// Signing a certificate with P-256.
    pub sign: Cost,
    /// Verifying the signature of a CSR with P-256.
    pub verify: Cost,
    /// Signing a token with ES256.
    pub es256: Cost,
}

impl Raw {
    /// Measures on all cores at once.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub async fn measure(plan: &Plan) -> anyhow::Result<Self> {
        let plan = *plan;
        tokio::task::spawn_blocking(move || Self::measure_now(&plan)).await?
    }

    fn measure_now(plan: &Plan) -> anyhow::Result<Self> {
        let work = Work::new()?;
        let turn = plan.pick(Duration::from_millis(400), Duration::from_millis(40));
        Ok(Self {
            sign: on_all_cores(turn, || work.sign())?,
            verify: on_all_cores(turn, || work.verify())?,
            es256: on_all_cores(turn, || work.es256())?,
        })
    }

    /// What lies between two measurements.
    #[must_use]
    pub fn mean(self, other: Self) -> Self {
        Self {
            sign: self.sign.mean(other.sign),
            verify: self.verify.mean(other.verify),
            es256: self.es256.mean(other.es256),
        }
    }

    /// Processor time of verifying a CSR and signing its certificate, in microseconds.
    #[must_use]
    pub fn issue_us(&self) -> f64 {
        self.sign.processor_us + self.verify.processor_us
    }

    /// How often all cores together can verify a CSR and sign its certificate in a second.
    #[must_use]
    pub fn issues_a_second(&self) -> f64 {
        1.0 / (1.0 / self.sign.a_second + 1.0 / self.verify.a_second)
    }

    /// By how much absolute times may be longer than where one core signs 50,000 times a second (DESIGN §8).
    #[must_use]
    pub fn slowness(&self) -> f64 {
        (self.sign.processor_us / 20.0).max(1.0)
    }
}

/// How many cores there are.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn on_all_cores(turn: Duration, work: impl Fn() -> bool + Sync) -> anyhow::Result<Cost> {
    let one = || -> anyhow::Result<(f64, f64)> {
        let (begun, spent) = (Instant::now(), usage::own_thread()?);
        let mut done = 0_u32;
        while begun.elapsed() < turn {
            // The clock is asked seldom, so that it is no part of the cost.
            for _ in 0..16 {
                anyhow::ensure!(work(), "the cryptographic library failed");
                done += 1;
            }
        }
        let processor = (usage::own_thread()? - spent).as_secs_f64();
        let done = f64::from(done);
        Ok((processor * 1e6 / done, done / begun.elapsed().as_secs_f64()))
    };
    let each: Vec<(f64, f64)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores()).map(|_| scope.spawn(one)).collect();
        let ended = threads
            .into_iter()
            .map(|thread| thread.join().ok().context("a thread panicked")?);
        ended.collect::<anyhow::Result<_>>()
    })?;
    let count = u32::try_from(each.len())?;
    Ok(Cost {
        processor_us: each.iter().map(|(us, _)| us).sum::<f64>() / f64::from(count),
        a_second: each.iter().map(|(_, rate)| rate).sum(),
    })
}
