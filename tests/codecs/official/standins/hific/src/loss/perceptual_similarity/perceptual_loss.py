raise RuntimeError("the original downloads a network here")
