"""All uses of private parts of torch and transformers, one file for each surface."""
