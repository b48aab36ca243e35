"""Both entries (torch.compile, torch.export) to one ATen dialect in which products, softmax and attention are whole."""
