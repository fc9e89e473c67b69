//! SPIFFE values: ids, selectors, bundles, SVID templates, signing, verifying.
