"""Other names of the settings: those of other trainers (TRL, verl, OpenRLHF …), and former names."""

from __future__ import annotations

_NAMES = {
    "model": "model_name_or_path model_name model_path base_model actor_model pretrain pretrained",
    "steps": "max_steps num_steps total_steps total_training_steps train_steps num_train_epochs epochs "
    "total_epochs total_train_epochs num_episodes updates",
    "output": "output_dir save_path default_local_dir ckpt_path",
    "name": "run_name experiment_name trial_name",
    "trackers": "tracker report_to log_with logger loggers use_wandb wandb tensorboard tracing otlp_endpoint",
    "env": "environment env_id env_name task",
    "env_options": "env_args env_kwargs",
    "env_options.data": "dataset dataset_name dataset_path train_files prompt_data data_path train_dataset",
    "env_options.rewards": "reward_funcs reward_functions reward_weights",
    "rollout.batch_size": "batch bs train_batch_size rollout_batch_size generation_batch_size "
    "global_batch_size per_device_train_batch_size prompts_per_step",
    "rollout.group_size": "num_generations n_samples n_samples_per_prompt num_samples rollout.n "
    "num_return_sequences rollouts_per_example samples_per_prompt",
    "rollout.max_new_tokens": "max_completion_length max_response_length generate_max_len max_tokens "
    "response_length max_completion_tokens max_gen_len completion_length",
    "rollout.thinking_budget": "thinking_token_budget max_thinking_tokens max_thought_tokens budget_tokens "
    "reasoning_budget max_reasoning_tokens",
    "rollout.max_model_len": "max_length max_seq_len max_seq_length seq_len max_context_length "
    "context_length max_prompt_length prompt_max_len vllm_max_model_length",
    "rollout.max_staleness": "max_head_offpolicyness staleness_threshold staleness max_async_level "
    "max_off_policy_steps eta",
    "rollout.max_concurrent": "max_num_seqs max_concurrent_rollouts concurrency",
    "rollout.stop": "stop_strings stop_sequences",
    "engine.memory": "gpu_memory_utilization vllm_gpu_memory_utilization kv_cache_memory",
    "engine.eager": "enforce_eager",
    "engine.quantization": "quantization fp8 rollout_quantization vllm_quantization",
    "engine.count": "vllm_num_engines num_engines data_parallel_size dp_size",
    "learner.learning_rate": "lr actor_learning_rate learning_rates",
    "learner.objective": "loss_type algorithm algo policy_loss",
    "learner.advantage": "adv_estimator advantage_estimator scale_rewards norm_adv",
    "learner.aggregation": "loss_agg_mode loss_aggregation",
    "learner.ratio": "importance_sampling_level",
    "learner.decoupled": "use_decoupled_loss",
    "learner.clip": "epsilon eps_clip clip_ratio cliprange clip_range clip_ratio_low epsilon_low",
    "learner.clip_high": "epsilon_high clip_ratio_high eps_clip_high eps_clip_higher",
    "learner.dual_clip": "clip_ratio_c delta",
    "learner.behav_clip": "behav_imp_weight_cap tis_imp_ratio_cap vllm_importance_sampling_cap",
    "learner.kl": "beta kl_coef kl_loss_coef init_kl_coef kl_coeff kl_beta kl_ctl",
    "learner.entropy": "entropy_coef entropy_coeff entropy_bonus entropy_loss_coef",
    "learner.dynamic_sampling": "filter_groups dynamic_filtering",
    "learner.overlong": "overlong_buffer overlong_filtering mask_truncated_completions",
    "learner.gamma": "discount discount_factor",
    "learner.gae_lambda": "lam lambd lambda_gae",
    "learner.critic_learning_rate": "critic_lr value_learning_rate",
    "learner.warmup_steps": "warmup_ratio lr_warmup_steps lr_warmup_ratio num_warmup_steps",
    "learner.weight_decay": "l2 decay",
    "learner.betas": "adam_betas adam_beta1 adam_beta2 beta1 beta2",
    "learner.grad_clip": "max_grad_norm max_norm gradient_clipping clip_grad gradient_clip_val",
    "learner.minibatches": "num_minibatches ppo_n_minibatches n_minibatches",
    "learner.micro_batch_tokens": "gradient_accumulation_steps ppo_micro_batch_size "
    "ppo_micro_batch_size_per_gpu micro_train_batch_size micro_batch_size ppo_max_token_len_per_gpu "
    "max_tokens_per_mb per_device_batch_size",
    "learner.processes": "n_gpus_per_node num_gpus nproc_per_node world_size num_processes",
    "learner.replicas": "data_parallel_replicate_degree dp_replicate hsdp replicate_degree",
    "learner.dtype": "bf16 fp16 torch_dtype precision mixed_precision",
    "learner.lora_rank": "lora_r lora use_lora peft_rank",
    "learner.lora_options": "lora_alpha use_rslora rslora target_modules lora_target_modules rank_pattern "
    "alpha_pattern peft_config",
    "learner.base_precision": "load_in_4bit qlora bnb_4bit_quant_type quantization bits",
    "learner.router_replay": "r3 routing_replay rollout_routing_replay enable_return_routed_experts",
    "learner.activation_checkpointing": "gradient_checkpointing enable_gradient_checkpointing recompute",
    "learner.compile": "torch_compile use_torch_compile",
    "evaluation.every": "eval_steps test_freq eval_every eval_interval eval_freq eval_strategy",
    "evaluation.problems": "max_eval_samples eval_size val_size val_before_train",
    "checkpoint.every": "save_steps save_freq save_every save_interval",
    "checkpoint.keep": "save_total_limit max_ckpt_num max_actor_ckpt_to_keep",
    "chat.system": "system_prompt system",
    "chat.keep_thoughts": "keep_thinking preserve_thinking",
    "chat.template_kwargs": "chat_template_kwargs enable_thinking",
}

RENAMED = {
    "agent_options.most_answers": "agent_options.max_completions",
    "learner.recompute": "learner.activation_checkpointing",
}
"""The former name of a setting, and its current name."""

_ONCE = "areal trains on each batch once; remove it"
_STEPS = "set 'learner.minibatches', the optimizer steps for each batch"
OTHERWISE = {
    **dict.fromkeys(("num_iterations", "ppo_epochs", "num_ppo_epochs", "update_epochs"), _ONCE),
    **dict.fromkeys(("ppo_mini_batch_size", "mini_batch_size"), f"{_STEPS}: batch size / mini-batch size"),
    "steps_per_generation": f"{_STEPS}: steps_per_generation / gradient_accumulation_steps",
}
"""A name that other trainers use in another sense, or for what areal lacks, and what to do instead."""

SYNONYMS = {name: key for key, names in _NAMES.items() for name in names.split()} | RENAMED
"""Another name, with its section if it is ambiguous alone, and the setting."""
