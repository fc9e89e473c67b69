//! Variables by which an environment makes a loader or a runtime run code that nobody measured, trust whom nobody named, or write
//! down the secrets of its connections.

use std::ffi::{OsStr, OsString};

/// Each name that is such a variable.
const NAMES: [&str; 52] = [
    "BASHOPTS",
    "BASH_ENV",
    "CDPATH",
    "CLASSPATH",
    "CURL_CA_BUNDLE",
    "ENV",
    "GCONV_PATH",
    "GEM_HOME",
    "GEM_PATH",
    "GIO_EXTRA_MODULES",
    "GLIBC_TUNABLES",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "GTK_MODULES",
    "GTK_PATH",
    "GUILE_LOAD_COMPILED_PATH",
    "GUILE_LOAD_PATH",
    "HOSTALIASES",
    "IFS",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "KRB5_CONFIG",
    "LOCALDOMAIN",
    "LOCPATH",
    "LUA_CPATH",
    "LUA_INIT",
    "LUA_PATH",
    "MALLOC_TRACE",
    "NLSPATH",
    "OPENSSL_CONF",
    "OPENSSL_ENGINES",
    "OPENSSL_MODULES",
    "PERL5DB",
    "PERL5LIB",
    "PERL5OPT",
    "PERLLIB",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "QT_PLUGIN_PATH",
    "REQUESTS_CA_BUNDLE",
    "RES_OPTIONS",
    "RUBYLIB",
    "RUBYOPT",
    "R_ENVIRON",
    "R_LIBS",
    "R_PROFILE",
    "SHELLOPTS",
    "SSLKEYLOGFILE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TCLLIBPATH",
    "ZDOTDIR",
    "_JAVA_OPTIONS",
];

/// What the names of whole families begin with.
const FAMILIES: [&str; 14] = [
    "BASH_FUNC_",
    "BUN_",
    "COMPlus_",
    "CORECLR_",
    "COR_",
    "DENO_",
    "DOTNET_",
    "ERL_",
    "JULIA_",
    "LD_",
    "MONO_",
    "NODE_",
    "PYTHON",
    "_PYTHON",
];

/// Whether a variable of this name can change what code runs, or who is trusted with what.
#[must_use]
pub fn is_loader_variable(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    NAMES.contains(&name.as_ref()) || FAMILIES.iter().any(|family| name.starts_with(family))
}

/// An environment without loader variables.
#[derive(Debug, PartialEq, Eq)]
pub struct Filtered {
    /// What the program may see.
    pub kept: Vec<(OsString, OsString)>,
    /// The names that were taken out.
    pub dropped: Vec<OsString>,
}

/// Takes out every loader variable that `allowed` does not name.
#[must_use]
pub fn filtered(env: impl IntoIterator<Item = (OsString, OsString)>, allowed: &[String]) -> Filtered {
    let mut filtered = Filtered {
        kept: Vec::new(),
        dropped: Vec::new(),
    };
    for (name, value) in env {
        if is_loader_variable(&name) && !allowed.iter().any(|allowed| name == allowed.as_str()) {
            filtered.dropped.push(name);
        } else {
            filtered.kept.push((name, value));
        }
    }
    filtered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loader_variables_go_unless_named() {
        let names = [
            "LD_PRELOAD",
            "PYTHONPATH",
            "NODE_OPTIONS",
            "PATH",
            "PYTHONSTARTUP",
            "BASH_ENV",
            "SSLKEYLOGFILE",
            "CORECLR_PROFILER_PATH",
            "HOME",
        ];
        let env = names.map(|name| (OsString::from(name), OsString::from("x")));
        let filtered = filtered(env, &["PYTHONPATH".to_owned()]);
        let kept: Vec<_> = filtered.kept.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(kept, ["PYTHONPATH", "PATH", "HOME"]);
        assert_eq!(
            filtered.dropped,
            [
                "LD_PRELOAD",
                "NODE_OPTIONS",
                "PYTHONSTARTUP",
                "BASH_ENV",
                "SSLKEYLOGFILE",
                "CORECLR_PROFILER_PATH",
            ]
        );
    }
}
