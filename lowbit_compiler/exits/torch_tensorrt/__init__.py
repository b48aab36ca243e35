"""The torch_tensorrt exit: the QDQ form, in engines that torch_tensorrt builds while a model is compiled."""
