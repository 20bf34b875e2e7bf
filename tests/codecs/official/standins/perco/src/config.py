class ConfigPerco:
    global_path = "/tf/notebooks/PerCo/src"
    target_rate = 0.1250
    guidance_scale = 3.0
    random_seed = 3868512668962463
