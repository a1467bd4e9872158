"""Sources of samples: one file a source, each of which lists samples and reads one."""
