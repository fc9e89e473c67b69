"""mTLS for frameworks that take an `ssl.SSLContext`: the SVID of this process, and a check of the peer's SPIFFE ID
within the handshake, before a byte of the application goes either way.

A context has the SVID of the moment it is made; those of this demo live for minutes.
"""

import os
import ssl
from hashlib import sha256

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


def peer_of(connection):
    """The SPIFFE ID in the peer's certificate, which TLS has verified; None without one."""
    names = (connection.getpeercert() or {}).get("subjectAltName", ())
    return next((name for kind, name in names if kind == "URI"), None)


def fingerprint(key):
    """Names a key pair by its public half."""
    return sha256(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


class Mtls:
    """Contexts with the SVID of an `X509Source`."""

    def __init__(self, source):
        context = source.get_x509_context()
        svid = context.default_svid
        bundle = source.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
        self.fingerprint = fingerprint(svid.private_key)
        self._authorities = "".join(_pem(authority) for authority in bundle.x509_authorities)
        # As OpenSSL wants it. It stays in this process's memory, where the thief will look for it.
        key = svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._identity = "".join(_pem(certificate) for certificate in svid.cert_chain).encode() + key

    def server(self, admit):
        return self._context(ssl.PROTOCOL_TLS_SERVER, admit)

    def client(self, server):
        """For a server with exactly this SPIFFE ID."""
        return self._context(ssl.PROTOCOL_TLS_CLIENT, lambda peer: peer == server)

    def _context(self, side, admit):
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # an SVID names no host; the SPIFFE ID is checked instead
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self._authorities)
        file = os.memfd_create("svid")  # OpenSSL reads keys from files alone: one in memory, closed to children
        try:
            os.write(file, self._identity)
            context.load_cert_chain(f"/proc/self/fd/{file}")
        finally:
            os.close(file)

        class Checked(ssl.SSLObject):
            def do_handshake(self):
                super().do_handshake()
                peer = peer_of(self)
                if not peer or not admit(peer):
                    raise ssl.SSLCertVerificationError(f"not the peer that was expected: {peer}")

        context.sslobject_class = Checked
        return context


def _pem(certificate):
    return certificate.public_bytes(Encoding.PEM).decode()
